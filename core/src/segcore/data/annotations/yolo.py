"""YOLO's segmentation labels (Ultralytics): a data.yaml, and a text file of outlines per image."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from segcore.data.annotations.drawing import Shape, polygons
from segcore.data.annotations.pictures import Annotations, Picture, output_name
from segcore.data.listing import IMAGE_SUFFIXES, find_files
from segcore.data.read import image_size
from segcore.errors import InputError

_SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "test"}


def read(source: Path, images: Path | None, _: Path | None) -> Annotations:
    """Read a data.yaml, or the folder of it; labels lie where the path has labels in place of its last images.

    Args:
        images: root that the file's paths start from; None is its own `path`, else its folder.

    Raises:
        InputError: if it is no such file, a folder is missing, or labels are boxes.
    """
    file = source / "data.yaml" if source.is_dir() else source
    content = _read_yaml(file)
    listed = content.get("names")
    if not isinstance(listed, dict | list) or not listed:
        raise InputError(f"{file} names no classes; expected `names:` with a list or a table")
    table: dict[int, str] = dict(enumerate(listed)) if isinstance(listed, list) else listed
    names = {int(number): str(name) for number, name in sorted(table.items())}
    root = images or file.parent / str(content.get("path", ""))
    root = root if root.is_dir() else file.parent
    result = Annotations(list(names.values()), [])
    for key, split in _SPLITS.items():
        for place in _as_list(content.get(key)):
            folder = _folder(root, file.parent, place)
            result.pictures += [_picture(folder, name, names, split) for name in find_files(folder, IMAGE_SUFFIXES)]
    if not result.pictures:
        raise InputError(f"{file} leads to no image; its train, val and test must be folders of images below {root}")
    return result


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        yaml: Any = import_module("yaml")
    except ImportError as error:
        raise InputError("YOLO's data.yaml needs PyYAML: pip install 'segcore[import]'") from error
    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{file} is not readable as YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} is no data.yaml of YOLO's")
    return content


def _as_list(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [str(value)] if value else []


def _folder(root: Path, own: Path, place: str) -> Path:
    """Return the folder of a split; Roboflow's files say ../train/images of one that lies beside the file."""
    for folder in (root / place, own / place, own / place.removeprefix("../")):
        if folder.is_dir():
            return folder
    raise InputError(f"the folder {root / place} does not exist; --images names the root of the data.yaml's paths")


def _picture(folder: Path, name: str, names: dict[int, str], split: str) -> Picture:
    parts = list((folder / name).parts)
    places = [i for i, part in enumerate(parts) if part == "images"]
    if not places:
        raise InputError(f"{folder} has no part called images, in whose place labels would stand")
    parts[places[-1]] = "labels"
    labels = Path(*parts).with_suffix(".txt")
    lines = labels.read_text("utf-8").splitlines() if labels.is_file() else []  # no file: nothing is in the image
    height, width = image_size(folder / name)
    shapes = [
        _shape(line, names, width, height, f"{labels}, line {i}") for i, line in enumerate(lines, 1) if line.strip()
    ]
    return Picture(output_name(name), folder / name, (height, width), tuple(shapes), split=split)


def _shape(line: str, names: dict[int, str], width: int, height: int, place: str) -> Shape:
    try:
        number, *numbers = line.split()
        values = np.array(numbers, np.float64)
        name = names[int(number)]
    except (ValueError, KeyError) as error:
        raise InputError(f"{place}: expected a class of the data.yaml and numbers, got {line[:40]!r}") from error
    if len(values) < 6 or len(values) % 2:
        kind = "a box, as for detection" if len(values) in (4, 5) else f"{len(values)} numbers"
        raise InputError(f"{place}: expected an outline of three points or more, got {kind}")
    return Shape(name, polygons, ([(values.reshape(-1, 2) * (width, height)).ravel().tolist()],))
