"""The user's own images and masks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segcore.data.base import ClassTable, FileDataset
from segcore.data.labels import IGNORE, OUTSIDE
from segcore.data.listing import IMAGE_SUFFIXES, Item, find_files, first_folder, select_items
from segcore.data.palette import make_palette
from segcore.data.read import DataFileError, open_regular
from segcore.errors import InputError
from segcore.recipe.plain import is_text

MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
"""Lossless formats: JPEG would change the values at every border."""
_MAX_CLASSES = 254  # 255 = ignore, 254 = outside (labels.py)
SPLITS = ("train", "val", "test")
ALL = "all"
"""The split of every image, in a folder without subfolders for splits."""
_CLASS_FILES = ("classes.txt", "classes.json")
_VALIDATION_SHARE = 10  # every tenth image


def read_classes(path: Path) -> ClassTable:
    """Read class names, and colors if the file has them.

    Args:
        path: text with one name per line, or JSON: a list of names or {"classes": [...], "palette": [[r, g, b], ...]}.

    Raises:
        InputError: if the file is missing or has another content.
    """
    try:
        with open_regular(path) as file:
            text = file.read().decode("utf-8-sig")
        content: Any = json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
    except OSError as error:
        raise InputError(f"cannot read the class file {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # also a number of too many digits, or nested deeply
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
    if not all(is_text(name) for name in names):
        raise InputError(f"{path}: a class name holds characters that no file can (NUL, half of a surrogate pair)")
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


def split_folders(root: Path) -> list[str]:
    """Return which of the splits are subfolders of the images."""
    return [name for name in SPLITS if (root / "images" / name).is_dir()]


def has_test_split(root: Path) -> bool:
    """Tell whether a folder has test images of their own, as a subfolder or a list."""
    folders = split_folders(root)
    return "test" in folders if folders else (root / "test.txt").is_file()


class FolderDataset(FileDataset):
    """Images in `images/`, masks of the same stem in `masks/`; palette PNGs count by index, gray ones by value.

    Splits are the subfolders `images/{train,val,test}` with `masks/{train,val,test}`; only a split `test` with its own
    subfolder may have no masks. Without such subfolders they are the lists `{train,val,test}.txt` of stems in the root
    (`segcore data split` writes them), and without lists, every tenth image in the order of names (the first, the
    eleventh, ...) validates and tests, the others train. There, `all` is every image, from which a list_file chooses.

    Args:
        classes: class file; empty takes classes.txt or classes.json in the root; without either, `mask_values` name
            the classes.
        ignore: mask value of pixels without a label; 255 is none either, unless `mask_values` has it.
        mask_values: mask value of each class, in the order of the classes; empty is 0, 1, 2, ...

    Raises:
        InputError: also for mask values that are not one of their own for each class.
    """

    name = "folder"
    title = "the image folder"
    splits = (*SPLITS, ALL)
    stray_advice = (
        "if it means no label, pass --data.ignore with it; if classes have other values, --data.mask-values; else "
        "correct the file or the list of classes"
    )

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        classes: str = "",
        ignore: int = IGNORE,
        mask_values: Sequence[int] = (),
        list_file: str = "",
        **options: Any,
    ) -> None:
        self._images = first_folder([Path(root, "images")], Path(root), self.title, "images")
        self.ignore, self.mask_values = ignore, tuple(mask_values)
        if mask_values and not classes and not has_class_file(Path(root)):
            names = tuple(f"value {value}" for value in mask_values)
            self.classes = ClassTable(names, make_palette(len(names)))
        else:
            self.classes = read_classes(_find_class_file(Path(root), classes))
        _check_mask_values(self.mask_values, ignore, self.classes.names)
        if list_file and not split_folders(Path(root)):
            split = ALL
        super().__init__(root, split, list_file=list_file, **options)

    def list_items(self, split: str) -> list[Item]:
        masks, folders = self.root / "masks", split_folders(self.root)
        if folders:
            if split not in folders:
                held = " and ".join(folders)
                raise InputError(
                    f"{self._images} holds {held}, but no {split}; choose another split, or add the folder"
                )
            has_masks = split != "test" or (masks / split).is_dir()
            return _pair(self._images / split, masks / split if has_masks else None)
        items = _pair(self._images, masks)
        if split == ALL:
            return items
        if any((self.root / f"{name}.txt").is_file() for name in SPLITS):
            return select_items(items, self.root / f"{split}.txt")
        if len(items) < 2:
            raise InputError(f"{self._images} holds one image; a train and a val part need at least two")
        is_training = split == "train"
        return [item for i, item in enumerate(items) if (i % _VALIDATION_SHARE != 0) == is_training]

    def decode_label(self, raw: np.ndarray) -> np.ndarray:
        """Map the values of the classes to their numbers, and the ignore value to 255."""
        if self.mask_values:
            table = np.full(256, OUTSIDE, np.uint8)
            table[[self.ignore, IGNORE]] = IGNORE
            table[list(self.mask_values)] = np.arange(len(self.mask_values))
            return table[raw]
        return raw if self.ignore == IGNORE else np.where(raw == self.ignore, np.uint8(IGNORE), raw)


def _check_mask_values(values: tuple[int, ...], ignore: int, names: tuple[str, ...]) -> None:
    if values and (len(values) != len(names) or len(set(values)) != len(values)):
        raise InputError(
            f"--data.mask-values must be {len(names)} different values, one for each class, got "
            f"{' '.join(map(str, values))}"
        )
    if ignore in values and ignore != IGNORE:
        raise InputError(
            f"--data.ignore {ignore} is among --data.mask-values, the value of {names[values.index(ignore)]}"
        )


def has_class_file(root: Path) -> bool:
    """Tell whether a folder names its classes."""
    return any((root / name).is_file() for name in _CLASS_FILES)


def _find_class_file(root: Path, option: str) -> Path:
    if option:
        return Path(option)
    for name in _CLASS_FILES:
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
