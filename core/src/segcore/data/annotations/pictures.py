"""What a reader of a format gives: classes, and pictures with what is to be drawn for them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from segcore.data.annotations.drawing import Shape, Size
from segcore.data.listing import IMAGE_SUFFIXES, find_files
from segcore.errors import InputError


class Raster(NamedTuple):
    """A mask with a color or number per pixel: `read(classes, unlabeled, *arguments)` gives its labels."""

    read: Callable[..., np.ndarray]
    arguments: tuple[Any, ...]


class Picture(NamedTuple):
    """An image and its annotation.

    Attributes:
        name: relative path without suffix.
        size: (height, width) as the annotation says; None where only the image file does.
        shapes: in the order of the file.
        raster: in place of shapes, where the format has masks.
        split: part that the format puts it into; empty where it has none.
    """

    name: str
    image: Path
    size: Size | None
    shapes: tuple[Shape, ...] = ()
    raster: Raster | None = None
    split: str = ""


@dataclass
class Annotations:
    """What a source holds.

    Attributes:
        classes: names, in the order of the format; by name where it has no order.
        colors: RGB of the classes, None where the format has none.
        skipped: kind of shapes without an area -> how many were left out.
    """

    classes: list[str]
    pictures: list[Picture]
    colors: list[tuple[int, int, int]] | None = None
    skipped: Counter[str] = field(default_factory=Counter[str])


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        InputError: if it cannot be read or is no JSON.
    """
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable as JSON: {error}") from error


def output_name(path: str) -> str:
    """Return the name of a picture by its path in an annotation: relative, without suffix.

    Raises:
        InputError: if it leads elsewhere.
    """
    parts = PurePosixPath(path.replace("\\", "/")).with_suffix("")
    if parts.is_absolute() or ".." in parts.parts or not parts.name:
        raise InputError(f"the image name {path!r} of the annotations leads out of their folder; make it a plain name")
    return str(parts)


class ImageFinder:
    """Finds images by the names in annotations: as written, else by their last part, which must then be unique.

    Raises:
        InputError: in the search, naming what was expected.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"the folder {folder} of the images does not exist; name it with --images")
        self.folder = folder
        self.names = find_files(folder, IMAGE_SUFFIXES)
        self._by_last: dict[str, list[str]] = {}
        for name in self.names:
            self._by_last.setdefault(name.rpartition("/")[2], []).append(name)

    def __call__(self, *names: str) -> Path:
        """Return the file of the first of some names of an image that is there."""
        for name in names:
            plain = name.replace("\\", "/")
            last = plain.rpartition("/")[2]
            if (self.folder / plain).is_file() and not plain.startswith("/"):
                return self.folder / plain
            found = self._by_last.get(last, [])
            if len(found) == 1:
                return self.folder / found[0]
        raise InputError(f"the annotated image {names[0]} is not in {self.folder}; name its folder with --images")


def sorted_classes(pictures: Iterable[Picture]) -> list[str]:
    """Return the classes that occur, by name."""
    return sorted({shape.name for picture in pictures for shape in picture.shapes})
