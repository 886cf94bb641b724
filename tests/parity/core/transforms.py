"""Parity of the training transforms and of the label encodings, families M and S (docs/protocol 1.3 and 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import cv2
import numpy as np

from segcore.data import labels
from segcore.images.photometric import Distortion, distort
from segcore.images.region import Box
from segcore.images.transforms import (
    choose_box,
    flip_label,
    multiple_size,
    normalize,
    pad_image,
    pad_label,
    resize_bounds,
    resize_image,
    resize_label,
    resized_size,
    rotate_image,
    rotate_label,
)
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.inputs import make

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
    """Yield the comparisons of a case of kind "transform" or "labels", told apart by what the case expects."""
    expected = case.data["expected"]
    if case.data["kind"] == "labels":
        yield from _encodings(expected)
    elif "rows" in expected:
        yield from _sizes(expected["rows"])
    elif "cases" in expected:
        yield from _crops(case.data["inputs"]["cases"], expected["cases"])
    elif "normalized" in expected:
        yield from _flip_pad_normalize(case)
    elif "results" in expected and "angle" in expected["results"][0]:
        yield from _rotations(case)
    elif "results" in expected:
        yield from _distortions(case)
    else:
        yield from _resized(case)


def _encodings(expected: dict[str, Any]) -> Iterator[Comparison]:
    for name, table in expected.items():
        raw = np.asarray(table["raw"])
        raw = raw.astype(np.uint8) if raw.max() <= 255 else raw
        for key, encode in _ENCODINGS[name].items():
            yield Comparison(f"{name}.{key}", encode(raw), table[key], atol=0)


def _sizes(rows: list[dict[str, Any]]) -> Iterator[Comparison]:
    for row in rows:
        name = f"image {row['image']} scale {row['scale']} ratio {row['ratio']}"
        bounds = resize_bounds((row["scale"][0], row["scale"][1]), row["ratio"])
        size = resized_size((row["image"][0], row["image"][1]), bounds, keep_ratio=row.get("keep_ratio", True))
        yield Comparison(f"{name} target", bounds[::-1], row["target"], atol=0)
        yield Comparison(f"{name} size", size, row["size"], atol=0)
        if "multiple_of_32" in row:
            yield Comparison(f"{name} multiple", multiple_size(size, 32), row["multiple_of_32"], atol=0)


def _resized(case: ParityCase) -> Iterator[Comparison]:
    inputs, expected = case.data["inputs"], case.data["expected"]
    image, label = make(inputs["pixels"]), make(inputs["labels"]).astype(np.uint8)
    bounds = resize_bounds((inputs["scale"][0], inputs["scale"][1]), 1.0)
    size = resized_size((label.shape[0], label.shape[1]), bounds, keep_ratio=inputs["keep_ratio"])
    if inputs["multiple"]:
        size = multiple_size(size, inputs["multiple"])
    yield Comparison("shape", size, expected["shape"], atol=0)
    yield Comparison("image", resize_image(image, size), *_one_gray_level(expected["image"]))
    resized = resize_label(label, size)
    yield Comparison("label_rows", resized[: len(expected["label_rows"])], expected["label_rows"], atol=0)
    counts = {str(value): int(np.sum(resized == value)) for value in np.unique(resized)}
    for value, count in expected["label_counts"].items():
        yield Comparison(f"label_counts {value}", counts.get(value, 0), count, atol=0)


def _one_gray_level(summary: dict[str, Any]) -> tuple[dict[str, Any], float, float]:
    """Return (summary, rtol, atol): tolerances of summaries are relative to their standard deviation."""
    return summary, 0.0, 1 / float(summary["std"])


def _crops(inputs: list[dict[str, Any]], expected: list[dict[str, Any]]) -> Iterator[Comparison]:
    for number, (given, want) in enumerate(zip(inputs, expected, strict=True)):
        label = make(given["labels"]).astype(np.uint8)
        height, width = (min(c, s) for c, s in zip(given["crop"], label.shape, strict=True))
        for family in ("M", "S"):
            drawn: list[Box] = []

            def boxes(drawn: list[Box] = drawn) -> Iterator[Box]:
                for top, left in given["boxes_top_left"]:  # noqa: B023 (used up before the loop goes on)
                    drawn.append(Box(top, left, height, width))  # noqa: B023
                    yield drawn[-1]

            box = choose_box(boxes(), lambda b: b.cut(label), _MAX_RATIO, family)  # noqa: B023
            target, name = want[family.lower()], f"case {number} {family}"
            yield Comparison(f"{name} boxes drawn", len(drawn), target["boxes_drawn"], atol=0)
            yield Comparison(f"{name} is cropped", box is not None, target["chosen"] is not None, atol=0)
            if box is not None:
                yield Comparison(f"{name} chosen", box[:2], target["chosen"], atol=0)
            yield Comparison(
                f"{name} shape", (box or Box(0, 0, *label.shape)).cut(label).shape, target["shape"], atol=0
            )


def _flip_pad_normalize(case: ParityCase) -> Iterator[Comparison]:
    inputs, expected = case.data["inputs"], case.data["expected"]
    image, label = make(inputs["pixels"]), make(inputs["labels"]).astype(np.uint8)
    pairs = ((14, 15), (16, 17), (18, 19))
    yield Comparison("normalized", normalize(image), expected["normalized"], 1e-5, 1e-6)
    for family in ("M", "S"):
        want = expected[f"pad_{family.lower()}_16x20"]
        yield Comparison(f"pad {family}", pad_image(image, (16, 20), family), want["image"], 1e-5, 1e-6)
        yield Comparison(f"pad {family} labels", pad_label(label, (16, 20), family), want["labels"], atol=0)
    divided, size = expected["pad_m_divisor_8"], multiple_size(label.shape, 8)
    yield Comparison("pad divisor shape", size, divided["shape"], atol=0)
    yield Comparison("pad divisor", pad_image(image, size), divided["image"], 1e-5, 1e-6)
    turned, portrait = expected["pad_s_portrait_into_12x20"], np.ascontiguousarray(label.T)
    yield Comparison("pad portrait", pad_label(portrait, (12, 20), "S"), turned["labels"], atol=0)
    yield Comparison("flip", cv2.flip(image, 1), expected["flip"]["image"], atol=1e-6)
    yield Comparison("flip labels", flip_label(label, ()), expected["flip"]["labels"], atol=0)
    yield Comparison("flip pairs", flip_label(label, pairs), expected["flip_swap_pairs"]["labels"], atol=0)


def _distortions(case: ParityCase) -> Iterator[Comparison]:
    image = make(case.data["inputs"]["pixels"])
    for number, result in enumerate(case.data["expected"]["results"]):
        draws = result["draws"]
        distortion = Distortion(draws.get("b"), draws.get("a"), bool(draws["mode"]), draws.get("s"), draws.get("k"))
        families: dict[str, Literal["M", "S"]] = {"image": "M", "image_s_family": "S"}
        for key in sorted(families.keys() & result.keys()):
            ours, want = distort(image, distortion, family=families[key]), np.asarray(result[key])
            difference = np.abs(ours.astype(int) - want).max(axis=2)  # (H, W) gray levels
            name = f"distortion {number} {key}"
            if "k" in draws:
                yield Comparison(f"{name}, share of wrapped pixels", np.mean(difference > 1), 0, atol=_WRAPPED_SHARE)
            else:
                yield Comparison(name, ours, want, atol=1)


def _rotations(case: ParityCase) -> Iterator[Comparison]:
    inputs = case.data["inputs"]
    image, label = make(inputs["pixels"]), make(inputs["labels"]).astype(np.uint8)
    for result in case.data["expected"]["results"]:
        angle = result["angle"]
        yield Comparison(f"angle {angle}", rotate_image(image, angle), *_one_gray_level(result["image"]))
        yield Comparison(f"angle {angle} labels", rotate_label(label, angle), result["labels"], atol=0)
