"""What the memory of a checkpoint holds: read by `content`, shown by `page`, asked for by `command`."""
