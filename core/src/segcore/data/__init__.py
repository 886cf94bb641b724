"""Data sets by name. Importing this package imports no torch, so that commands show their help at once."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NamedTuple

from segcore.errors import InputError

if TYPE_CHECKING:
    from segcore.data.base import ClassTable, FileDataset, SegmentationDataset
    from segcore.recipe import Data


class Entry(NamedTuple):
    """A data set's place and what is said of it.

    Attributes:
        kind: its class, "module:Class"; empty for the two that `create_dataset` builds from more than a folder.
        about: one line: classes, and images of train/val or train/val/test.
    """

    kind: str
    about: str


DATASETS = {
    "toy": Entry("", "ToyScenes: generated street-like scenes, 8 classes, no files"),
    "folder": Entry("", "your own images/ and masks/, classes from classes.txt or classes.json"),
    "camvid": Entry("segcore.data.camvid:CamVid", "CamVid, 11 classes, 367/101/233 images"),
    "ade20k": Entry("segcore.data.ade20k:ADE20K", "ADE20K scene parsing, 150 classes, 20210/2000/3352 images"),
    "cityscapes": Entry(
        "segcore.data.cityscapes:Cityscapes",
        "Cityscapes, 19 classes, 2975/500/1525 images and 19998 coarse ones (train_extra)",
    ),
    "pascal_context_59": Entry(
        "segcore.data.pascal_context:PascalContext59",
        "Pascal Context without background, 59 classes, 4998/5105 images",
    ),
    "pascal_context_60": Entry(
        "segcore.data.pascal_context:PascalContext60", "Pascal Context with background, 60 classes, 4998/5105 images"
    ),
    "coco_stuff_10k": Entry(
        "segcore.data.coco_stuff:CocoStuff10k", "COCO-Stuff 10k, the 171 classes that occur, 9000/1000 images"
    ),
    "coco_stuff_10k_182": Entry(
        "segcore.data.coco_stuff:CocoStuff10kAll", "COCO-Stuff 10k, all 182 ids (MemoryNet), 9000/1000 images"
    ),
    "coco_stuff_164k": Entry(
        "segcore.data.coco_stuff:CocoStuff164k", "COCO-Stuff 164k, 171 classes, 118287/5000 images"
    ),
    "lip": Entry("segcore.data.lip:LIP", "LIP human parsing, 20 classes with background, 30462/10000/10000 images"),
    "bdd100k": Entry(
        "segcore.data.bdd100k:BDD100K", "BDD100K (10k subset), 19 Cityscapes classes, 7000/1000/2000 images"
    ),
}
"""Every data set by its name. A new one is a file in this folder and a line here: docs/add_a_dataset.md."""


def fixed_datasets() -> list[str]:
    """Return the names of the data sets whose classes are fixed."""
    return sorted(name for name, entry in DATASETS.items() if entry.kind)


def dataset_class(name: str) -> type[FileDataset]:
    """Return the class of a published data set by its name; its `classes` need no files."""
    return resolve_name(DATASETS[name].kind)


def dataset_classes(data: Data, name: str = "") -> ClassTable:
    """Return the classes of a data set without reading its files.

    Args:
        data: the recipe's data options.
        name: another data set than the recipe's.

    Raises:
        InputError: if the data set is unknown, or its classes are in the user's folder.
    """
    name = name or data.dataset
    if name == "toy":
        from segcore.data.toy.dataset import ToyScenes

        return ToyScenes.classes
    if name not in fixed_datasets():
        known = ", ".join(("toy", *fixed_datasets()))
        raise InputError(f"the data set {name!r} has no fixed classes (those of {known} are fixed); give --classes")
    return dataset_class(name).classes


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
        from segcore.data.toy.dataset import ToyScenes

        if list_file:
            raise InputError(f"the generated data set 'toy' has no files, so the list file {list_file} cannot be used")
        return ToyScenes(split, data.num_images[0 if split == "train" else 1], data.image_size)
    options: dict[str, Any] = {"list_file": list_file, "check_files": check_files, "max_pixels": data.max_pixels}
    if name == "folder":
        from segcore.data.folder import FolderDataset

        return FolderDataset(
            root, split, classes=data.classes, ignore=data.ignore, mask_values=data.mask_values, **options
        )
    return dataset_class(name)(root, split, **options)


def choose_test_split(data: Data, root: str) -> tuple[Data, str]:
    """Return the data options with the split and the list that a test or a report takes, and a sentence to show.

    A folder of one's own without test images is tested on its validation images. The sentence says so, and is empty
    where the recipe's split is taken.
    """
    if data.dataset != "folder" or data.test_list:
        return data, ""
    from segcore.data.folder import has_test_split

    if data.test_split == data.val_split:
        note = ""
    elif data.test_split == "test" and not has_test_split(Path(root)):
        note = f"{root} has no test split: its validation images (split {data.val_split}) are taken instead"
    else:
        return data, ""
    return replace(data, test_split=data.val_split, test_list=data.val_list), note
