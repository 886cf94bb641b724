"""What every data set is to training and evaluation, and the common part of those that read files.

A published data set is a class with a name, its classes, `list_items` and, where file values are not train ids,
`decode_label`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from segcore.data.labels import load_metadata
from segcore.data.read import DataFileError, read_label, read_pair
from segcore.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


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


class Item(NamedTuple):
    """The files of one sample; label is None where the split has no annotation."""

    name: str
    image: Path
    label: Path | None


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


def find_files(folder: Path, suffixes: Collection[str]) -> list[str]:
    """Return the files below a folder, links followed, by relative POSIX path, sorted.

    Args:
        suffixes: ends of the file names to keep; upper and lower case are the same.
    """
    ends = tuple(suffix.lower() for suffix in suffixes)
    found: list[str] = []
    for directory, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(directory).relative_to(folder)
        found += [(inside / n).as_posix() for n in names if n.lower().endswith(ends) and not n.startswith(".")]
    return sorted(found)


def list_pairs(
    images: Path, labels: Path | None, *, image_suffix: str = ".jpg", label_suffix: str = ".png", prefix: str = ""
) -> list[Item]:
    """Pair every image below a folder with the label of the same stem.

    Args:
        labels: folder of the labels, None for a split without annotations.
        image_suffix: end of the image names, replaced by label_suffix to get the name of the label.
        prefix: put before the names.

    Raises:
        InputError: if the folder holds no image.
    """
    stems = [path[: -len(image_suffix)] for path in find_files(images, [image_suffix])]
    if not stems:
        raise InputError(
            f"expected *{image_suffix} images in {images}, found none; --run.data must name the data set's root"
        )
    return [
        Item(prefix + stem, images / (stem + image_suffix), labels / (stem + label_suffix) if labels else None)
        for stem in stems
    ]


def first_folder(candidates: Iterable[Path], root: Path, title: str, expected: str) -> Path:
    """Return the first folder that exists.

    Raises:
        InputError: if none does, with the layout that was expected.
    """
    for folder in candidates:
        if folder.is_dir():
            return folder
    if root == Path():
        raise InputError(f"{title} needs its folder: set --run.data to the one that holds {expected}")
    state = "does not exist" if not root.is_dir() else f"has no {expected}"
    raise InputError(f"{title}: the folder {root} {state}; --run.data must name the folder that holds {expected}")


class FileDataset(SegmentationDataset):
    """A data set of image and label files.

    Args:
        root: its folder.
        split: name of a split, or several joined with +.
        list_file: file with one stem per line (relative path, suffix optional): keep these images, in this order.
        check_files: look for every label file now, so that training does not meet a missing one hours later.

    Raises:
        InputError: if the root, a split, a listed stem or (with check_files) a label is missing.
    """

    title: ClassVar[str]
    """Name for people."""
    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")

    def __init__(self, root: str | Path, split: str, *, list_file: str = "", check_files: bool = True) -> None:
        self.root = Path(root)
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
        raw = read_label(path)
        return raw, self.decode_label(raw)

    def __len__(self) -> int:
        return len(self.items)

    def files(self, index: int) -> tuple[Path | None, Path | None]:
        return self.items[index].image, self.items[index].label

    def load(self, index: int) -> Sample:
        item = self.items[index]
        label = None if item.label is None else self._read_label(item.label)
        return Sample(read_pair(item.image, label, item.label), label, item.name)

    def load_label(self, index: int) -> np.ndarray:
        path = self.items[index].label
        if path is None:
            raise InputError(f"{self.name}: {self.items[index].name} has no label; choose a split with annotations")
        return self._read_label(path)

    def _read_label(self, path: Path) -> np.ndarray:
        raw, label = self.decode_file(path)
        num_classes = len(self.classes.names)
        # 255 wraps to 0, so one maximum over the map checks all values.
        if int((label + np.uint8(1)).max(initial=0)) > num_classes:
            is_outside = (label >= num_classes) & (label != 255)
            values = ", ".join(str(value) for value in np.unique(raw[is_outside])[:5])
            message = f"the label {path} holds the value {values}, outside the {num_classes} classes of {self.name}"
            raise DataFileError("values outside the classes", f"{message}; correct the file or the list of classes")
        return label

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


def select_items(items: list[Item], list_file: Path) -> list[Item]:
    """Return the items that a list file names, in its order.

    Args:
        list_file: one stem or relative path per line, suffix optional.

    Raises:
        InputError: if the file is unreadable, names no image, or one that is not among the items.
    """
    try:
        lines = list_file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the list file {list_file}: {error}; expected one stem per line") from error
    by_stem: dict[str, Item] = {}
    for item in items:
        by_stem[item.name] = item
        # "train/bonn/bonn_01" also answers to "bonn/bonn_01", the name it has where only one split is read.
        parts = item.name.split("/")
        for start in range(1, len(parts)):
            by_stem.setdefault("/".join(parts[start:]), item)
        by_stem.setdefault(item.image.name, item)
    selected: list[Item] = []
    for number, line in enumerate(lines, start=1):
        stem = line.strip()
        if not stem:
            continue
        item = by_stem.get(stem) or by_stem.get(str(Path(stem).with_suffix("").as_posix()))
        if item is None:
            raise InputError(
                f"{list_file}, line {number}: no image {stem!r} in this split; one stem per line is expected"
            )
        selected.append(item)
    if not selected:
        raise InputError(f"the list file {list_file} names no image; expected one stem per line")
    return selected
