"""Heads that are not one paper's idea."""
