"""Annotation values -> train ids, as pure functions on arrays (docs/protocol 1.3). 255 is ignored everywhere.

A value that no version of a data set uses becomes `OUTSIDE`, which is no class: loading then names the file.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

IGNORE = 255
OUTSIDE = 254
_PASCAL_CATEGORIES = 460


@cache
def load_metadata(name: str) -> dict[str, Any]:
    """Return the class file `classes/NAME.json`: classes, palette, label maps, published counts."""
    return json.loads(files("segcore.data").joinpath("classes", f"{name}.json").read_text("utf-8"))


@cache
def _table(name: str, entry: str, size: int, default: int) -> np.ndarray:
    """Return the map `entry` of a class file as a lookup table of `size` values."""
    table = np.full(size, default, np.uint8)
    for raw, value in load_metadata(name)[entry].items():
        table[int(raw)] = value
    table.setflags(write=False)
    return table


def reduce_zero_label(raw: np.ndarray) -> np.ndarray:
    """Shift classes 1..K of a uint8 array to 0..K-1; 0 and 255 become 255.

    As published: 0 -> 255, subtract 1, 254 -> 255; so 255 stays and everything else moves down by one.
    """
    shifted = raw - np.uint8(1)  # 0 wraps to 255
    shifted[raw == IGNORE] = IGNORE
    return shifted


def cityscapes_train_ids(label_ids: np.ndarray) -> np.ndarray:
    """Return the train ids 0..18 of `*_labelIds.png`; every other id (and -1) is ignored."""
    table = _table("cityscapes", "label_map", 256, IGNORE)
    return table[label_ids.astype(np.uint8)]  # -1 (license plate) wraps to 255


def cityscapes_label_ids(train_ids: np.ndarray) -> np.ndarray:
    """Return the label ids of train ids 0..18, the encoding of submissions; anything else becomes 0 (unlabeled)."""
    return _table("cityscapes", "train_to_label_id", 256, 0)[train_ids]


def pascal_context_60(category_ids: np.ndarray) -> np.ndarray:
    """Return the labels 0..59 (0 = background) of the 459-category annotation; unlisted categories are background."""
    return _table("pascal_context_60", "category_id_to_label", _PASCAL_CATEGORIES, 0)[category_ids]


def pascal_context_59(category_ids: np.ndarray) -> np.ndarray:
    """Return the labels 0..58 of the 459-category annotation, with the background ignored."""
    return reduce_zero_label(pascal_context_60(category_ids))


def coco_stuff_10k_file_values(raw: np.ndarray) -> np.ndarray:
    """Return the values 0..171 of prepared files from the raw ids 0..182 (field S); 0 = unlabeled in both."""
    return _table("coco_stuff_171", "raw_value_to_file_value_10k", 256, OUTSIDE)[raw]


def coco_stuff_10k_171(raw: np.ndarray) -> np.ndarray:
    """Return the labels 0..170 of the raw ids 0..182 (field S); family M."""
    return reduce_zero_label(coco_stuff_10k_file_values(raw))


def coco_stuff_10k_182(raw: np.ndarray) -> np.ndarray:
    """Return the labels 0..181 of the raw ids 0..182 (field S); family S keeps all raw ids."""
    return reduce_zero_label(raw)


def coco_stuff_164k(raw: np.ndarray) -> np.ndarray:
    """Return the labels 0..170 of the raw PNG values 0..181; 255 = unlabeled."""
    return _table("coco_stuff_171", "raw_value_to_label_164k", 256, OUTSIDE)[raw]
