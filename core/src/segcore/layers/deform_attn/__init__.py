"""Multi-scale deformable attention: one operator, its backends, and the layer around it."""
