"""Boundaries of classes in labels: their maps, the published files of them, their way into training."""
