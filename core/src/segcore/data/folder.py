"""The user's own images and masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from segcore.data.base import ClassTable, FileDataset
from segcore.data.labels import IGNORE
from segcore.data.listing import IMAGE_SUFFIXES, Item, find_files, first_folder
from segcore.data.read import DataFileError
from segcore.errors import InputError

MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
"""Lossless formats: JPEG would change the values at every border."""
_MAX_CLASSES = 254  # 255 = ignore, 254 = outside (labels.py)
_VALIDATION_SHARE = 10  # every tenth image


def make_palette(num_classes: int) -> np.ndarray:
    """Return distinct colors by the bit rule of PASCAL VOC, starting with its color 1.

    Shapes:
        -> (K, 3) uint8 RGB
    """
    index = np.arange(1, num_classes + 1)[:, None]  # (K, 1)
    channel = np.arange(3)
    palette = np.zeros((num_classes, 3), np.int64)
    for bit in range(8):
        palette |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return palette.astype(np.uint8)


def read_classes(path: Path) -> ClassTable:
    """Read class names, and colors if the file has them.

    Args:
        path: text with one name per line, or JSON: a list of names or {"classes": [...], "palette": [[r, g, b], ...]}.

    Raises:
        InputError: if the file is missing or has another content.
    """
    try:
        text = path.read_text("utf-8-sig")
        content: Any = json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
    except OSError as error:
        raise InputError(f"cannot read the class file {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"the class file {path} is not valid: {error}") from error
    palette: Any = None
    if isinstance(content, dict):
        content, palette = content.get("classes"), content.get("palette")
    is_names = isinstance(content, list) and all(isinstance(name, str) for name in content)
    if not isinstance(content, list) or not is_names:
        raise InputError(
            f'{path}: expected a list of class names or {{"classes": [names], "palette": [[r, g, b], ...]}}'
        )
    names = tuple(name.strip() for name in content if name.strip())
    if not 1 <= len(names) <= _MAX_CLASSES:
        raise InputError(f"{path}: expected 1 to {_MAX_CLASSES} class names, got {len(names)}")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"{path}: the class name {repeated[0]!r} occurs more than once; names must differ")
    return ClassTable(names, make_palette(len(names)) if palette is None else _check_palette(palette, len(names), path))


def _check_palette(palette: Any, num_classes: int, path: Path) -> np.ndarray:
    is_table = isinstance(palette, list) and len(palette) == num_classes
    if not is_table or not all(
        isinstance(color, list) and len(color) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in color)
        for color in palette
    ):
        raise InputError(f"{path}: expected a palette of {num_classes} colors [r, g, b] from 0 to 255, one per class")
    return np.asarray(palette, np.uint8)


class FolderDataset(FileDataset):
    """Images in `images/`, masks of the same stem in `masks/`; palette PNGs count by index, gray ones by value.

    Splits are the subfolders `images/{train,val,test}` with `masks/{train,val,test}`. Without such subfolders, every
    tenth image in the order of names (the first, the eleventh, ...) validates and tests, the others train. Only a
    split `test` with its own subfolder may have no masks. Mask values are class numbers from 0; the ignore value and
    255 are not counted.

    Args:
        classes: class file; empty takes classes.txt or classes.json in the root.
        ignore: mask value of pixels without a label.
    """

    name = "folder"
    title = "the image folder"

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        classes: str = "",
        ignore: int = IGNORE,
        list_file: str = "",
        check_files: bool = True,
    ) -> None:
        self.ignore = ignore
        self._images = first_folder([Path(root, "images")], Path(root), self.title, "images")
        self.classes = read_classes(_find_class_file(Path(root), classes))
        super().__init__(root, split, list_file=list_file, check_files=check_files)

    def list_items(self, split: str) -> list[Item]:
        masks = self.root / "masks"
        if not any((self._images / name).is_dir() for name in self.splits):
            items = _pair(self._images, masks)
            if len(items) < 2:
                raise InputError(f"{self._images} holds one image; a train and a val part need at least two")
            is_training = split == "train"
            return [item for i, item in enumerate(items) if (i % _VALIDATION_SHARE != 0) == is_training]
        expected = f"images/{split}"
        images = first_folder([self._images / split], self.root, self.title, expected)
        has_masks = split != "test" or (masks / split).is_dir()
        return _pair(images, masks / split if has_masks else None)

    def decode_label(self, raw: np.ndarray) -> np.ndarray:
        """Map the ignore value to 255."""
        return raw if self.ignore == IGNORE else np.where(raw == self.ignore, np.uint8(IGNORE), raw)


def _find_class_file(root: Path, option: str) -> Path:
    if option:
        return Path(option)
    for name in ("classes.txt", "classes.json"):
        if (root / name).is_file():
            return root / name
    raise InputError(
        f"expected {root / 'classes.txt'} with one class name per line (or classes.json); or pass --data.classes"
    )


def _pair(images: Path, masks: Path | None) -> list[Item]:
    """Pair images with the masks of the same relative stem, whatever their suffix."""
    stems: dict[str, str] = {}
    for path in find_files(images, IMAGE_SUFFIXES):
        stem = str(Path(path).with_suffix("").as_posix())
        if stem in stems:
            raise InputError(f"{images} holds both {stems[stem]} and {path}; one image per stem is expected")
        stems[stem] = path
    if not stems:
        raise InputError(f"expected images ({', '.join(IMAGE_SUFFIXES)}) in {images}, found none")
    if masks is None:
        return [Item(stem, images / path, None) for stem, path in stems.items()]
    found = {str(Path(path).with_suffix("").as_posix()): path for path in find_files(masks, MASK_SUFFIXES)}
    if not found:
        lossy = find_files(masks, [".jpg", ".jpeg"])
        reason = "JPEG masks, whose values are not exact" if lossy else "none"
        raise DataFileError(
            "missing label", f"expected masks ({', '.join(MASK_SUFFIXES)}) in {masks}, found {reason}; save them as PNG"
        )
    return [Item(stem, images / path, masks / found.get(stem, f"{stem}.png")) for stem, path in stems.items()]
