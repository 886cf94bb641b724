"""Parity of the training transforms and of the label encodings, families M and S (docs/protocol 1.3 and 2)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import cv2
import numpy as np
import torch

from segcore.data import labels
from segcore.images.photometric import Distortion, distort
from segcore.images.region import Box
from segcore.images.transforms import (
    Family,
    Padding,
    choose_box,
    flip_label,
    multiple_size,
    normalize,
    padding,
    resize_bounds,
    resize_image,
    resize_label,
    resized_size,
    rotate_image,
    rotate_label,
)
from segcore.recipe.protocols import LIP_PAIRS
from tests.parity.building import array
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.core.limits import EXACT, families, gray_levels, limits

_MAX_RATIO = 0.75
_WRAPPED_SHARE = 0.01  # of pixels whose hue wraps around may differ between OpenCV builds

_ENCODINGS: dict[str, dict[str, Callable[[np.ndarray], np.ndarray]]] = {
    "reduce_zero": {"label": labels.reduce_zero_label},
    "cityscapes_label_ids": {"label": labels.cityscapes_train_ids},
    "pascal_context_category_ids": {"label_60": labels.pascal_context_60, "label_59": labels.pascal_context_59},
    "coco_stuff_10k_mat": {"label": labels.coco_stuff_10k_171},
    "coco_stuff_164k_png": {"label": labels.coco_stuff_164k},
    "coco_stuff_10k_mat_182": {"label": labels.coco_stuff_10k_182},
}


def compare(case: ParityCase) -> Iterator[Comparison]:
    """Yield the comparisons of a transform, told apart by what the case expects."""
    expected = case.data["expected"]
    if "rows" in expected:
        yield from _sizes(case.data)
    elif "cases" in expected:
        yield from _crops(case.data)
    elif "normalized" in expected:
        yield from _flip_pad_normalize(case.data)
    elif "results" in expected and "angle" in expected["results"][0]:
        yield from _rotations(case.data)
    elif "results" in expected:
        yield from _distortions(case.data)
    else:
        yield from _resized(case.data)


def encodings(case: ParityCase) -> Iterator[Comparison]:
    """Yield the training labels of the values that annotations hold."""
    families(case.data, "M", "S")
    expected = case.data["expected"]
    for name in expected:
        table = expected[name]
        raw = np.asarray(table["raw"])
        raw = raw.astype(np.uint8) if raw.max() <= 255 else raw
        for key in table:
            if key != "raw":
                yield Comparison(f"{name}.{key}", _ENCODINGS[name][key](raw), table[key], **limits(case.data))


def _family(data: Mapping[str, Any]) -> Family:
    (family,) = families(data, "M", "S")
    return cast(Family, family)


def _sizes(data: Mapping[str, Any]) -> Iterator[Comparison]:
    family, allowed = _family(data), limits(data)
    for row in data["expected"]["rows"]:
        (height, width), (long, short), ratio = row["image"], row["scale"], row["ratio"]
        name = f"image {height}x{width} scale {long}, {short} ratio {ratio}"
        bounds = resize_bounds((long, short), ratio)
        size = resized_size((height, width), bounds, keep_ratio=row.get("keep_ratio", True), family=family)
        yield Comparison(f"{name} target", bounds[::-1], row["target"], **allowed)
        yield Comparison(f"{name} size", size, row["size"], **allowed)
        for key in row:
            if divisor := re.fullmatch(r"multiple_of_(\d+)", key):
                yield Comparison(f"{name} {key}", multiple_size(size, int(divisor[1])), row[key], **allowed)


def _resized(data: Mapping[str, Any]) -> Iterator[Comparison]:
    """A resize, and, where the case has a multiple, a second one of its result up to that."""
    inputs, expected, family = data["inputs"], data["expected"], _family(data)
    assert data["tolerance"]["labels"] == "exact"
    image, label = array(inputs["pixels"]), array(inputs["labels"]).astype(np.uint8)
    long, short = inputs["scale"]
    bounds = resize_bounds((long, short), 1.0)
    size = resized_size(label.shape, bounds, keep_ratio=inputs["keep_ratio"], family=family)
    image, label = resize_image(image, size), resize_label(label, size)
    if inputs["multiple"]:
        size = multiple_size(size, inputs["multiple"])
        image, label = resize_image(image, size), resize_label(label, size)
    yield Comparison("shape", size, expected["shape"], **EXACT)
    yield Comparison("image", image, expected["image"], **gray_levels(data, expected["image"]))
    rows = expected["label_rows"]
    yield Comparison("label_rows", label[: len(rows)], rows, **EXACT)
    values, counts = np.unique(label, return_counts=True)
    published = expected["label_counts"]
    yield Comparison("label_counts: values", values, sorted(int(value) for value in published), **EXACT)
    for value, number in zip(values, counts, strict=True):
        yield Comparison(f"label_counts {value}", number, published[str(value)], **EXACT)


def _crops(data: Mapping[str, Any]) -> Iterator[Comparison]:
    allowed = limits(data)
    families(data, "M", "S")
    for number, (given, want) in enumerate(zip(data["inputs"]["cases"], data["expected"]["cases"], strict=True)):
        label = array(given["labels"]).astype(np.uint8)
        height, width = (min(c, s) for c, s in zip(given["crop"], label.shape, strict=True))
        boxes = [Box(top, left, height, width) for top, left in given["boxes_top_left"]]
        for key in want:
            remaining, target, name = iter(boxes), want[key], f"case {number} {key}"
            box = choose_box(remaining, lambda b: b.cut(label), _MAX_RATIO, cast(Family, key.upper()))  # noqa: B023
            num_drawn, whole = len(boxes) - len(list(remaining)), Box(0, 0, *label.shape)
            yield Comparison(f"{name} boxes drawn", num_drawn, target["boxes_drawn"], **allowed)
            chosen = target["chosen"]
            yield Comparison(f"{name} is cropped", box is not None, chosen is not None, **allowed)
            if box is not None:
                yield Comparison(f"{name} chosen", box[:2], chosen, **allowed)
            yield Comparison(f"{name} shape", (box or whole).cut(label).shape, target["shape"], **allowed)


def _padded_input(image: np.ndarray, around: Padding) -> torch.Tensor:
    return normalize(torch.from_numpy(around.pad_image(image)).unsqueeze(0), [around.box])[0]


def _flip_pad_normalize(data: Mapping[str, Any]) -> Iterator[Comparison]:
    """What is done is in the names of `expected`: pad_m_16x20, pad_m_divisor_8, pad_s_portrait_into_12x20, ..."""
    families(data, "M", "S")
    inputs, expected, allowed = data["inputs"], data["expected"], limits(data)
    image, label = array(inputs["pixels"]), array(inputs["labels"]).astype(np.uint8)
    for name in expected:
        want = expected[name]
        padded = re.fullmatch(r"pad_([ms])_(?:(portrait_into)_)?(?:(\d+)x(\d+)|divisor_(\d+))", name)
        if name == "normalized":
            yield Comparison(name, _padded_input(image, padding(label.shape, label.shape)), want, **allowed)
        elif padded:
            family = cast(Family, padded[1].upper())
            turned = padded[2] is not None
            source = np.ascontiguousarray(image.transpose(1, 0, 2)) if turned else image
            seen = np.ascontiguousarray(label.T) if turned else label
            is_size = padded[5] is None
            size = (int(padded[3]), int(padded[4])) if is_size else multiple_size(seen.shape, int(padded[5]))
            around = padding(seen.shape, size, family)
            made: dict[str, Any] = {"image": _padded_input(source, around), "labels": around.pad(seen)}
            made["shape"] = made["labels"].shape
            for key in want:
                yield Comparison(f"{name} {key}", made[key], want[key], **(allowed if key == "image" else EXACT))
        else:
            pairs = {"flip": (), "flip_swap_pairs": LIP_PAIRS}[name]
            made = {"image": cv2.flip(image, 1), "labels": flip_label(label, pairs)}
            for key in want:
                yield Comparison(f"{name} {key}", made[key], want[key], **(allowed if key == "image" else EXACT))


def _distortions(data: Mapping[str, Any]) -> Iterator[Comparison]:
    own = _family(data)
    image, atol = array(data["inputs"]["pixels"]), data["tolerance"]["atol"]
    for number, result in enumerate(data["expected"]["results"]):
        draws = result["draws"]
        distortion = Distortion(draws.get("b"), draws.get("a"), bool(draws["mode"]), draws.get("s"), draws.get("k"))
        for key, family in (("image", own), ("image_m_family", "M"), ("image_s_family", "S")):
            if key not in result:
                continue
            ours, want = distort(image, distortion, family=cast(Family, family)), np.asarray(result[key])
            difference = np.abs(ours.astype(int) - want).max(axis=2)  # (H, W) gray levels
            name = f"distortion {number} {key}"
            if "k" in draws:
                share = np.mean(difference > atol)
                yield Comparison(f"{name}, share of wrapped pixels", share, 0, atol=_WRAPPED_SHARE)
            else:
                yield Comparison(name, ours, want, atol=atol)


def _rotations(data: Mapping[str, Any]) -> Iterator[Comparison]:
    families(data, "S")
    assert data["tolerance"]["labels"] == "exact"
    inputs = data["inputs"]
    image, label = array(inputs["pixels"]), array(inputs["labels"]).astype(np.uint8)
    for result in data["expected"]["results"]:
        angle, want = result["angle"], result["image"]
        yield Comparison(f"angle {angle}", rotate_image(image, angle), want, **gray_levels(data, want))
        yield Comparison(f"angle {angle} labels", rotate_label(label, angle), result["labels"], **EXACT)
