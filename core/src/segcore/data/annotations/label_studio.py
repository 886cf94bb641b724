"""Label Studio's JSON export: tasks with polygons, boxes, ellipses and brush strokes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from segcore.data.annotations.drawing import Patch, Shape, Size, box_points, ellipse_points, polygons
from segcore.data.annotations.pictures import Annotations, ImageFinder, Picture, output_name, read_json, sorted_classes
from segcore.errors import InputError

_UPLOAD = re.compile(r"^[0-9a-f]{8}-")  # put before the name of an uploaded file
_CHANNELS = 4  # a brush is stored as RGBA, its pixels in A


def read(source: Path, images: Path | None, _: Path | None) -> Annotations:
    """Read a file that was exported as JSON (not JSON-MIN).

    Of a task that several people annotated, the first annotation that was not canceled counts.

    Args:
        images: folder of the images; None is the JSON's folder.

    Raises:
        InputError: if it is no such file, or names an image that is missing.
    """
    tasks = read_json(source)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) and "annotations" in task for task in tasks):
        raise InputError(f"{source} is no list of tasks with annotations; export it from Label Studio as JSON")
    find = ImageFinder(images or source.parent)
    result = Annotations([], [])
    for number, task in enumerate(tasks):
        try:
            picture = _picture(task, find, result)
        except (KeyError, TypeError, ValueError, IndexError, StopIteration) as error:
            raise InputError(f"{source}: task {task.get('id', number)} is not in its form: {error!r}") from error
        if picture is not None:
            result.pictures.append(picture)
    result.classes = sorted_classes(result.pictures)
    return result


def _picture(task: dict[str, Any], find: ImageFinder, result: Annotations) -> Picture | None:
    """Return the picture of a task, None of one that nobody annotated."""
    done = [entry for entry in task["annotations"] if not entry.get("was_cancelled")]
    if not done:
        result.skipped["task without annotation"] += 1
        return None
    address = next(value for value in task["data"].values() if isinstance(value, str))
    last = unquote(re.split(r"[/=]", address)[-1])
    names = [name for name in (task.get("file_upload"), last) if name]
    image = find(*names, *(_UPLOAD.sub("", name) for name in names))
    shapes: list[Shape] = []
    size: Size | None = None
    for entry in done[0]["result"]:
        if "original_width" not in entry:
            continue  # relations, choices
        size = (int(entry["original_height"]), int(entry["original_width"]))
        shape = _shape(entry, size)
        if shape is None:
            result.skipped[str(entry["type"])] += 1
        else:
            shapes.append(shape)
    return Picture(output_name(image.name), image, size, tuple(shapes))


def _shape(entry: dict[str, Any], size: Size) -> Shape | None:
    """Return the area of a region, None of others; numbers are percent of the sides."""
    value, kind = entry["value"], entry["type"].removesuffix("labels")
    labels: Sequence[str] = value.get(entry["type"]) or ()
    if not labels:
        return None
    across, down = size[1] / 100, size[0] / 100
    turn = float(value.get("rotation", 0))
    if kind == "brush":
        return Shape(labels[0], brush, (value["rle"],))
    if kind == "polygon":
        ring = [number for x, y in value["points"] for number in (x * across, y * down)]
    elif kind == "rectangle":
        ring = box_points(value["x"] * across, value["y"] * down, value["width"] * across, value["height"] * down, turn)
    elif kind == "ellipse":
        sides = (value["radiusX"] * across, value["radiusY"] * down)
        ring = ellipse_points(value["x"] * across, value["y"] * down, *sides, turn)
    else:
        return None
    return Shape(labels[0], polygons, ([ring],))


def brush(size: Size, data: Sequence[int]) -> Patch:
    """Return the pixels of a brush stroke.

    The bytes are a stream of bits: the number of values (32 bits), their width less one (5), four lengths' widths less
    one (4 each); then runs: a flag, which of the four widths (2), the length less one, and one value where the flag is
    set, else so many.

    Raises:
        InputError: if they end early or are of another size.
    """
    bits = "".join(f"{byte:08b}" for byte in data)
    place = 0

    def take(width: int) -> int:
        nonlocal place
        place += width
        return int(bits[place - width : place] or "0", 2)

    total, width = take(32), take(5) + 1
    lengths = [take(4) + 1 for _ in range(4)]
    values: list[np.ndarray] = []
    count = 0
    while count < total and place < len(bits):
        is_run, length = take(1), lengths[take(2)]
        number = take(length) + 1
        values.append(np.full(number, take(width)) if is_run else np.array([take(width) for _ in range(number)]))
        count += number
    if count < total or total != size[0] * size[1] * _CHANNELS:
        raise InputError(f"a brush of Label Studio's holds {count} values, expected {size[0]}x{size[1]}x{_CHANNELS}")
    return Patch(np.concatenate(values)[:total].reshape(*size, _CHANNELS)[..., -1] > 0)
