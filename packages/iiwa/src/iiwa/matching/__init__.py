"""Matching of windows: one operator, and the two solvers behind it."""
