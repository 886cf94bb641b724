"""Data sets by name. Importing this package imports no torch, so that commands show their help at once."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from segcore.errors import InputError

if TYPE_CHECKING:
    from segcore.data.base import SegmentationDataset
    from segcore.recipe import Data

DATASETS = {
    "toy": "ToyScenes: generated street-like scenes, 8 classes, no files",
    "folder": "your own images/ and masks/, classes from classes.txt or classes.json",
    "camvid": "CamVid, 11 classes, 367/101/233 images",
    "ade20k": "ADE20K scene parsing, 150 classes, 20210/2000/3352 images",
}
"""Name -> one line about it."""


def create_dataset(
    data: Data, root: str, split: str, *, list_file: str = "", check_files: bool = True
) -> SegmentationDataset:
    """Build a split of a data set.

    Args:
        data: the recipe's data options.
        root: folder of the data set (`--run.data`).
        split: name of a split, or several joined with +.
        list_file: file with one image stem per line: these images only.
        check_files: fail now where a label file is missing.

    Raises:
        InputError: if the name is unknown or the folder does not hold the data set.
    """
    name = data.dataset
    if name not in DATASETS:
        close = get_close_matches(name, DATASETS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(DATASETS)}"
        raise InputError(f"--data.dataset: there is no data set {name!r}; {hint}")
    if name == "toy":
        from segcore.data.toy import ToyScenes

        if list_file:
            raise InputError(f"the generated data set 'toy' has no files, so the list file {list_file} cannot be used")
        return ToyScenes(split, data.num_images[0 if split == "train" else 1], data.image_size)
    if name == "folder":
        from segcore.data.folder import FolderDataset

        return FolderDataset(
            root, split, classes=data.classes, ignore=data.ignore, list_file=list_file, check_files=check_files
        )
    from segcore.data.ade20k import ADE20K
    from segcore.data.camvid import CamVid

    published = {kind.name: kind for kind in (ADE20K, CamVid)}
    return published[name](root, split, list_file=list_file, check_files=check_files)
