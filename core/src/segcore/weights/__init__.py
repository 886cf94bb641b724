"""Weights and training states as files: ours, the published ones, and the names between them."""
