"""COCO's JSON: instances and stuff (polygons, run lengths), panoptic (PNG files of segment numbers)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segcore.data.annotations.drawing import Patch, Shape, Size, polygons, runs
from segcore.data.annotations.pictures import Annotations, ImageFinder, Picture, Raster, output_name, read_json
from segcore.errors import InputError


def read(source: Path, images: Path | None, masks: Path | None) -> Annotations:
    """Read a file of COCO's.

    Args:
        source: instances_*.json, stuff_*.json, panoptic_*.json, or of any tool that writes this form.
        images: folder of the images; None is the JSON's folder.
        masks: panoptic: folder of the PNG files; None is the one beside the JSON with its name.

    Raises:
        InputError: if it is no such file, or one that it names is missing.
    """
    content = read_json(source)
    try:
        categories: dict[int, Any] = {entry["id"]: entry for entry in content["categories"]}
        names = {number: str(categories[number]["name"]) for number in sorted(categories)}
        if any("segments_info" in entry for entry in content["annotations"][:1]):
            pictures = _panoptic(content, names, ImageFinder(images or source.parent), masks or source.with_suffix(""))
        else:
            pictures = _instances(content, names, ImageFinder(images or source.parent))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{source} is not in COCO's form: {error} is missing or of another kind") from error
    colors = [entry.get("color") for entry in (categories[number] for number in names)]
    return Annotations(list(names.values()), pictures, [tuple(c) for c in colors] if all(colors) else None)


def _instances(content: Any, names: Mapping[int, str], find: ImageFinder) -> list[Picture]:
    shapes: dict[int, list[Shape]] = {}
    sizes: dict[int, Size] = {entry["id"]: (entry["height"], entry["width"]) for entry in content["images"]}
    for entry in content["annotations"]:
        shape = _shape(names[entry["category_id"]], entry["segmentation"], sizes[entry["image_id"]])
        shapes.setdefault(entry["image_id"], []).append(shape)
    return [
        Picture(
            output_name(entry["file_name"]),
            find(entry["file_name"]),
            sizes[entry["id"]],
            tuple(shapes.get(entry["id"], ())),
        )
        for entry in content["images"]
    ]


def _shape(name: str, segmentation: Any, size: Size) -> Shape:
    if isinstance(segmentation, list):
        return Shape(name, polygons, (segmentation,))
    height, width = segmentation["size"]
    if isinstance(segmentation["counts"], list):
        return Shape(name, runs, (segmentation["counts"], (0, 0, width, height), True))
    return Shape(name, compressed_runs, (segmentation["counts"], (height, width)))


def compressed_runs(_: Size, counts: str, size: Size) -> Patch:
    """Return the pixels of run lengths in COCO's text form.

    Raises:
        InputError: if pycocotools is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise InputError("run lengths in COCO's text form need pycocotools: pip install 'segcore[import]'") from error
    return Patch(mask.decode({"size": list(size), "counts": counts.encode()}).astype(bool))


def _panoptic(content: Any, names: Mapping[int, str], find: ImageFinder, masks: Path) -> list[Picture]:
    files = {entry["id"]: entry for entry in content["images"]}
    pictures: list[Picture] = []
    for entry in content["annotations"]:
        image = files[entry["image_id"]]
        segments = [(part["id"], names[part["category_id"]]) for part in entry["segments_info"]]
        raster = Raster(read_segments, (masks / entry["file_name"], segments))
        size = (image["height"], image["width"])
        pictures.append(Picture(output_name(image["file_name"]), find(image["file_name"]), size, raster=raster))
    return pictures


def read_segments(
    classes: Mapping[str, int], unlabeled: int, path: Path, segments: list[tuple[int, str]]
) -> np.ndarray:
    """Return the labels (H, W) uint8 of a PNG whose colors are segment numbers: R + 256 G + 65536 B.

    Raises:
        InputError: if it cannot be read, or holds a segment that is not listed.
    """
    try:
        colors = np.asarray(Image.open(path).convert("RGB")).astype(np.int32)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"cannot read the panoptic file {path}: {error}; name its folder with --masks") from error
    numbers, places = np.unique(colors @ np.array([1, 256, 65536], np.int32), return_inverse=True)
    known = {0: unlabeled, **{number: classes[name] for number, name in segments}}
    unknown = [int(number) for number in numbers if int(number) not in known]
    if unknown:
        raise InputError(f"{path} holds the segment {unknown[0]}, which the JSON does not list")
    return np.array([known[int(number)] for number in numbers], np.uint8)[places].reshape(colors.shape[:2])
