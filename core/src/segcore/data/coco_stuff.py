"""COCO-Stuff: the 10k release in 171 or 182 classes, and the 164k release (docs/protocol 1.1, 1.3)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from segcore.data.base import FileDataset, load_classes
from segcore.data.labels import IGNORE, OUTSIDE, coco_stuff_10k_171, coco_stuff_164k, load_metadata, reduce_zero_label
from segcore.data.listing import Item, find_files, first_folder, list_pairs, select_items
from segcore.data.matlab import read_matlab_label
from segcore.data.read import DataFileError, read_label

PREPARED = "_labelTrainIds.png"
MATLAB_FIELD = "S"


def read_10k_matlab(path: Path) -> np.ndarray:
    """Return the raw ids (H, W) uint8, 0..182, of a `.mat` annotation.

    Raises:
        DataFileError: if the file cannot be read or holds other values.
    """
    raw = read_matlab_label(path, MATLAB_FIELD)
    if raw.size and (raw.min() < 0 or raw.max() > 255):
        message = f"the label {path} holds the value {raw.max() if raw.max() > 255 else raw.min()}, expected 0 to 182"
        raise DataFileError("values outside the classes", message)
    return raw.astype(np.uint8)


class CocoStuff10k(FileDataset):
    """COCO-Stuff 10k in the 171 classes that occur: 9000 training and 1000 test images (`val` is `test`).

    `images/{train2014,test2014}` with `annotations/{train2014,test2014}/*_labelTrainIds.png` (0 = unlabeled, 1..171),
    or the release itself: `images/*.jpg`, `annotations/*.mat`, `imageLists/{train,test}.txt`.
    """

    name = "coco_stuff_10k"
    title = "COCO-Stuff 10k"
    classes = load_classes("coco_stuff_10k")

    def list_items(self, split: str) -> list[Item]:
        part = "train" if split == "train" else "test"
        images = self.root / "images" / f"{part}2014"
        if images.is_dir():
            return list_pairs(images, self.root / "annotations" / f"{part}2014", label_suffix=PREPARED)
        expected = f"images/{part}2014, or images, annotations and imageLists"
        images = first_folder([self.root / "images"], self.root, self.title, expected)
        items = list_pairs(images, self.root / "annotations", label_suffix=".mat")
        return select_items(items, self.root / "imageLists" / f"{part}.txt")

    def decode_file(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Map raw ids of `.mat` files and values of prepared ones, 0 = unlabeled in both."""
        if path.suffix == ".mat":
            raw = read_10k_matlab(path)
            return raw, coco_stuff_10k_171(raw)
        raw = read_label(path, self.max_pixels)
        return raw, reduce_zero_label(raw)


@cache
def _to_182() -> np.ndarray:
    """Return prepared value -> raw id - 1, the inverse of the table that drops the ids never used."""
    table = np.full(256, OUTSIDE, np.uint8)
    for raw, value in load_metadata("coco_stuff_171")["raw_value_to_file_value_10k"].items():
        table[value] = int(raw) - 1 if value else IGNORE
    table[IGNORE] = IGNORE
    return table


class CocoStuff10kAll(CocoStuff10k):
    """COCO-Stuff 10k in all 182 raw ids, of which 11 never occur (MemoryNet); the files of `CocoStuff10k`."""

    name = "coco_stuff_10k_182"
    title = "COCO-Stuff 10k (182 classes)"
    classes = load_classes("coco_stuff_10k_182")

    def decode_file(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Shift the raw ids by one; prepared files are turned back to raw ids."""
        if path.suffix == ".mat":
            raw = read_10k_matlab(path)
            return raw, reduce_zero_label(raw)
        raw = read_label(path, self.max_pixels)
        return raw, _to_182()[raw]


class CocoStuff164k(FileDataset):
    """COCO-Stuff 164k in the 171 classes that occur: 118287 training and 5000 validation images.

    `images/{train2017,val2017}` with `annotations/{train2017,val2017}/*_labelTrainIds.png`, or the raw `*.png` of the
    release beside them where the prepared ones are not complete.
    """

    name = "coco_stuff_164k"
    title = "COCO-Stuff 164k"
    classes = load_classes("coco_stuff_164k")
    splits = ("train", "val")

    def list_items(self, split: str) -> list[Item]:
        expected = f"images/{split}2017"
        images = first_folder([self.root / expected], self.root, self.title, expected)
        labels = self.root / "annotations" / f"{split}2017"
        found = set(find_files(labels, [".png"]))
        items = list_pairs(images, labels, label_suffix=PREPARED)
        raw = list_pairs(images, labels)
        for is_enough in (all, any):
            for candidates in (items, raw):
                if is_enough(item.label and item.label.relative_to(labels).as_posix() in found for item in candidates):
                    return candidates
        return items

    def decode_file(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Map raw values 0..181; prepared files hold 0..170 and 255 already: nothing is reduced."""
        raw = read_label(path, self.max_pixels)
        return raw, raw if path.name.endswith(PREPARED) else coco_stuff_164k(raw)
