"""`segcore data`: list the data sets, prepare one, import one, split one, check one."""

from __future__ import annotations

COMMANDS = {
    "list": ("segcore.commands.data_list", "names of the data sets"),
    "prepare": ("segcore.commands.data_prepare", "convert published annotations"),
    "import": ("segcore.commands.data_import", "annotations of COCO, YOLO, LabelMe, CVAT, ... into a folder of masks"),
    "split": ("segcore.commands.data_split", "divide a folder of images into train, val and test lists"),
    "check": ("segcore.commands.data_check", "count images and classes, find unusable files and traps"),
}
