"""What every data set is to training and evaluation, and the common part of those that read files.

A published data set is a class with a name, its classes, `list_items` and, where file values are not train ids,
`decode_label`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from segcore.data.labels import IGNORE, load_metadata
from segcore.data.listing import Item, select_items
from segcore.data.read import DataFileError, read_label, read_pair
from segcore.errors import InputError
from segcore.recipe import MAX_PIXELS


class ClassTable(NamedTuple):
    """Class names and their colors.

    Shapes:
        palette (K, 3) uint8 RGB
    """

    names: tuple[str, ...]
    palette: np.ndarray


_CLASS_FILES = {"coco_stuff_10k": "coco_stuff_171", "coco_stuff_164k": "coco_stuff_171"}


def load_classes(name: str) -> ClassTable:
    """Return the classes of a published data set, by its name or that of its file in `classes/`."""
    metadata = load_metadata(_CLASS_FILES.get(name, name))
    return ClassTable(tuple(metadata["classes"]), np.asarray(metadata["palette"], np.uint8))


class Sample(NamedTuple):
    """One decoded image.

    name is the relative path without suffix, unique in the data set.

    Shapes:
        image (H, W, 3) uint8 BGR, label (H, W) uint8 train ids with 255 = ignore, None where there is no annotation
    """

    image: np.ndarray
    label: np.ndarray | None
    name: str


class SegmentationDataset(ABC):
    """Images with label maps, by index. Loading torch for it would delay every sentence about missing files.

    Attributes:
        name: as in `segcore data list`.
        classes: names and colors of the train ids.
    """

    name: str
    classes: ClassTable

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def load(self, index: int) -> Sample:
        """Decode one sample, without any transform.

        Raises:
            InputError: if its files cannot be used; the message names the file.
        """

    def __getitem__(self, index: int) -> Sample:
        return self.load(index)

    def sample_name(self, index: int) -> str:
        """Return the name of a sample without decoding it."""
        return self.load(index).name

    def files(self, index: int) -> tuple[Path | None, Path | None]:
        """Return the image and the label file, None for what is not a file."""
        return None, None

    def load_label(self, index: int) -> np.ndarray:
        """Return the label (H, W) uint8 of one sample.

        Raises:
            InputError: if the sample has none.
        """
        sample = self.load(index)
        if sample.label is None:
            raise InputError(f"{self.name}: {sample.name} has no label; choose a split with annotations")
        return sample.label


class FileDataset(SegmentationDataset):
    """A data set of image and label files.

    Args:
        root: its folder.
        split: name of a split, or several joined with +.
        list_file: file with one stem per line (relative path, suffix optional): keep these images, in this order.
        check_files: look for every label file now, so that training does not meet a missing one hours later.
        max_pixels: files of more are refused, see `read_image`.

    Raises:
        InputError: if the root, a split, a listed stem or (with check_files) a label is missing.
    """

    title: ClassVar[str]
    """Name for people."""
    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    stray_advice: ClassVar[str] = "correct the file or the list of classes"
    """What to do about a value that is no class."""

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        list_file: str = "",
        check_files: bool = True,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.root, self.max_pixels = Path(root), max_pixels
        items: list[Item] = []
        parts = split.split("+")
        for part in parts:
            if part not in self.splits:
                raise InputError(f"{self.title} has the splits {', '.join(self.splits)} (joined with +), not {part!r}")
            listed = self.list_items(part)
            # Two splits may use the same stems; names must stay unique.
            items += [item._replace(name=f"{part}/{item.name}") for item in listed] if len(parts) > 1 else listed
        self.items = select_items(items, Path(list_file)) if list_file else items
        if check_files:
            self._require_labels()

    @abstractmethod
    def list_items(self, split: str) -> list[Item]:
        """Return the files of one split, in a fixed order."""

    def decode_label(self, raw: np.ndarray) -> np.ndarray:
        """Return the train ids of raw file values, both (H, W) uint8; the identity unless a data set says more."""
        return raw

    def decode_file(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Return raw values and train ids of a label file; for data sets whose file name or format decides the rule."""
        raw = read_label(path, self.max_pixels)
        return raw, self.decode_label(raw)

    def __len__(self) -> int:
        return len(self.items)

    def sample_name(self, index: int) -> str:
        return self.items[index].name

    def files(self, index: int) -> tuple[Path | None, Path | None]:
        return self.items[index].image, self.items[index].label

    def load(self, index: int) -> Sample:
        item = self.items[index]
        label = None if item.label is None else self._read_label(item.label)
        return Sample(read_pair(item.image, label, item.label, self.max_pixels), label, item.name)

    def load_label(self, index: int) -> np.ndarray:
        path = self.items[index].label
        if path is None:
            raise InputError(f"{self.name}: {self.items[index].name} has no label; choose a split with annotations")
        return self._read_label(path)

    def _read_label(self, path: Path) -> np.ndarray:
        raw, label = self.decode_file(path)
        self.check_values(path, raw, label)
        return label

    def check_values(self, path: Path, raw: np.ndarray, label: np.ndarray) -> None:
        """Refuse a label file with values that are no class.

        Raises:
            DataFileError: naming the values as they are in the file.
        """
        num_classes = len(self.classes.names)
        # 255 wraps to 0, so one maximum over the map checks all values.
        if int((label + np.uint8(1)).max(initial=0)) > num_classes:
            is_outside = (label >= num_classes) & (label != IGNORE)
            values = ", ".join(str(value) for value in np.unique(raw[is_outside])[:5])
            message = f"the label {path} holds the value {values}, outside the {num_classes} classes of {self.name}"
            raise DataFileError("values outside the classes", f"{message}; {self.stray_advice}")

    def _require_labels(self) -> None:
        """Compare the label paths with one listing per folder: 20 000 single look-ups are slow on network disks."""
        listings: dict[Path, set[str]] = {}
        for item in self.items:
            if item.label is None:
                continue
            folder = item.label.parent
            if folder not in listings:
                listings[folder] = set(os.listdir(folder)) if folder.is_dir() else set()
            if item.label.name not in listings[folder]:
                message = f"the image {item.image} has no label: expected {item.label}; add it or remove the image"
                raise DataFileError("missing label", message)
