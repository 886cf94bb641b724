"""The commands, one file each, and how their words are read."""
