"""Pascal Context: 4998 training and 5105 validation images in 59 classes and background (docs/protocol 1.1, 1.3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from segcore.data.base import FileDataset, load_classes
from segcore.data.labels import reduce_zero_label
from segcore.data.listing import Item, first_folder, list_pairs, select_items
from segcore.errors import InputError

LABEL_FOLDER = "SegmentationClassContext"
LIST_FOLDER = "ImageSets/SegmentationContext"


def find_devkit(root: Path) -> Path:
    """Return the VOC2010 folder: the root itself, or the one inside it.

    Raises:
        InputError: if neither holds JPEGImages.
    """
    inside = (root, root / "VOC2010", root / "VOCdevkit" / "VOC2010")
    return first_folder((path / "JPEGImages" for path in inside), root, "Pascal Context", "JPEGImages").parent


class _PascalContext(FileDataset):
    """Pascal Context in one of two layouts; label files hold 0 = background and the classes 1..59.

    `JPEGImages`, `SegmentationClassContext` and `ImageSets/SegmentationContext/{train,val}.txt` (the root is
    VOCdevkit/VOC2010 or a folder around it), or `{train,val}/image` with `{train,val}/label`.
    """

    splits = ("train", "val")

    def __init__(self, root: str | Path, split: str, *, list_file: str = "", **options: Any) -> None:
        self._has_own_list = bool(list_file)
        super().__init__(root, split, list_file=list_file, **options)

    def list_items(self, split: str) -> list[Item]:
        images = self.root / split / "image"
        if images.is_dir() and not (self.root / "JPEGImages").is_dir():
            return list_pairs(images, self.root / split / "label")
        devkit = find_devkit(self.root)
        items = list_pairs(devkit / "JPEGImages", devkit / LABEL_FOLDER)
        stems = devkit / LIST_FOLDER / f"{split}.txt"
        if stems.is_file():
            return select_items(items, stems)
        if self._has_own_list:  # a split is nothing but a list here, so the user's own one is enough
            return items
        command = f"`segcore data prepare pascal_context_60 --root {devkit}` writes it"
        raise InputError(f"{self.title}: expected the list {stems}, which does not exist; {command}")


class PascalContext60(_PascalContext):
    """Pascal Context with the background as a class."""

    name = "pascal_context_60"
    title = "Pascal Context (60 classes)"
    classes = load_classes("pascal_context_60")


class PascalContext59(_PascalContext):
    """Pascal Context with the background ignored."""

    name = "pascal_context_59"
    title = "Pascal Context (59 classes)"
    classes = load_classes("pascal_context_59")

    def decode_label(self, raw: np.ndarray) -> np.ndarray:
        """Files store 0 = background, ignored here, and 1..59 = classes."""
        return reduce_zero_label(raw)
