"""`segcore data`: list the data sets, prepare one, split one, check one."""

from __future__ import annotations

COMMANDS = {
    "list": ("segcore.commands.data_list", "names of the data sets"),
    "prepare": ("segcore.commands.data_prepare", "convert published annotations"),
    "split": ("segcore.commands.data_split", "divide a folder of images into train, val and test lists"),
    "check": ("segcore.commands.data_check", "count images and classes, find unusable files and traps"),
}
