"""LabelMe (labelme 3 to 5): one JSON per image with polygons, rectangles, circles and masks."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segcore.data.annotations.drawing import Patch, Shape, Size, ellipse_points, polygons
from segcore.data.annotations.pictures import Annotations, ImageFinder, Picture, output_name, read_json, sorted_classes
from segcore.data.listing import find_files
from segcore.errors import InputError


def read(source: Path, images: Path | None, _: Path | None) -> Annotations:
    """Read a folder of LabelMe's files.

    Args:
        images: folder of the images; None is the folder itself.

    Raises:
        InputError: if it holds none, or a file that cannot be used.
    """
    files = find_files(source, [".json"])
    if not files:
        raise InputError(f"expected LabelMe's *.json in the folder {source}, found none")
    find = ImageFinder(images or source)
    result = Annotations([], [])
    for name in files:
        content = read_json(source / name)
        try:
            inside = f"{Path(name).parent.as_posix()}/{content['imagePath']}".removeprefix("./")
            size = (int(content["imageHeight"]), int(content["imageWidth"]))
            shapes = [_shape(entry) for entry in content["shapes"]]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InputError(f"{source / name} is not in LabelMe's form: {error!r}") from error
        kinds = [str(entry.get("shape_type", "polygon")) for entry in content["shapes"]]
        result.skipped.update(kind for kind, shape in zip(kinds, shapes, strict=True) if shape is None)
        drawn = tuple(shape for shape in shapes if shape is not None)
        result.pictures.append(Picture(output_name(name), find(inside, content["imagePath"]), size, drawn))
    result.classes = sorted_classes(result.pictures)
    return result


def _shape(entry: dict[str, Any]) -> Shape | None:
    """Return the area of a shape, None of points and lines."""
    points = [(float(x), float(y)) for x, y in entry["points"]]
    kind = entry.get("shape_type", "polygon")
    if kind == "mask":
        return Shape(entry["label"], stored_mask, (entry["mask"], points[0]))
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points
        ring = [x0, y0, x1, y0, x1, y1, x0, y1]
    elif kind == "circle":  # its center, and a point on it
        (x, y), (edge_x, edge_y) = points
        radius = float(np.hypot(edge_x - x, edge_y - y))
        ring = ellipse_points(x, y, radius, radius)
    elif kind == "polygon":
        ring = [value for point in points for value in point]
    else:
        return None
    return Shape(entry["label"], polygons, ([ring],))


def stored_mask(_: Size, data: str, corner: tuple[float, float]) -> Patch:
    """Return the pixels of a mask that is stored as PNG in the JSON, its top left corner at a point (x, y)."""
    try:
        mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L")) > 0
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"a mask in LabelMe's JSON cannot be decoded: {error}") from error
    return Patch(mask, round(corner[1]), round(corner[0]))
