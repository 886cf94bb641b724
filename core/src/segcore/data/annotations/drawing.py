"""From shapes to pixels: polygons, boxes, ellipses and run lengths, one over the other by a stated order.

A pixel belongs to an outline if its center is inside (even-odd rule); pixel x spans x to x + 1, as annotation tools
count. Sizes are (height, width), points (x, y).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

Size = tuple[int, int]
Order = Literal["smaller", "file"]
"""What lies above where shapes overlap: the smaller one (ties: the later one), or the later one of the file."""


class Patch(NamedTuple):
    """A mask (h, w) bool, and where its top left pixel lies."""

    mask: np.ndarray
    top: int = 0
    left: int = 0


class Shape(NamedTuple):
    """A labeled region: `draw(size, *arguments)` gives its patch, and is a function that a worker can import."""

    name: str
    """Of its class."""
    draw: Callable[..., Patch]
    arguments: tuple[Any, ...]


def draw_label(size: Size, shapes: Sequence[tuple[int, Shape]], order: Order, unlabeled: int) -> np.ndarray:
    """Return the label map (H, W) uint8 of a picture.

    Args:
        shapes: class number and shape, in the order of the file.
        unlabeled: value of pixels in no shape.
    """
    patches = [(number, shape.draw(size, *shape.arguments)) for number, shape in shapes]
    if order == "smaller":
        patches.sort(key=lambda entry: -int(entry[1].mask.sum()))  # stable
    label = np.full(size, unlabeled, np.uint8)
    for number, patch in patches:
        top, left = max(patch.top, 0), max(patch.left, 0)
        part = label[top : patch.top + patch.mask.shape[0], left : patch.left + patch.mask.shape[1]]
        inside = patch.mask[top - patch.top :, left - patch.left :][: part.shape[0], : part.shape[1]]
        part[inside] = number
    return label


def polygons(size: Size, rings: Sequence[Sequence[float]]) -> Patch:
    """Return the pixels inside any of some outlines.

    Args:
        rings: x and y in turns, pixels, of each outline.
    """
    result = np.zeros(size, bool)
    for ring in rings:
        result |= _inside(size, np.asarray(ring, np.float64).reshape(-1, 2))
    return _trimmed(result)


def _inside(size: Size, points: np.ndarray) -> np.ndarray:
    """Return the pixels whose center is inside an outline (n, 2), (H, W) bool.

    Every edge toggles, in each row that it crosses, all pixels from the crossing to the right.
    """
    height, width = size
    x0, y0 = points.T
    x1, y1 = np.roll(points, -1, axis=0).T
    first = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), 0, height).astype(np.int64)
    counts = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), 0, height).astype(np.int64) - first
    edge = np.repeat(np.arange(len(points)), counts)
    row = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    share = (row + 0.5 - y0[edge]) / (y1 - y0)[edge]  # edges along a row cross no center: their count is 0
    column = np.clip(np.ceil(x0[edge] + share * (x1 - x0)[edge] - 0.5), 0, width).astype(np.int64)
    toggles = np.bincount(row * (width + 1) + column, minlength=height * (width + 1)).reshape(height, width + 1)
    return (np.cumsum(toggles[:, :-1], axis=1) & 1).astype(bool)


def _trimmed(mask: np.ndarray) -> Patch:
    """Return the part of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return Patch(np.zeros((0, 0), bool))
    top, left = int(rows[0]), int(columns[0])
    return Patch(mask[top : rows[-1] + 1, left : columns[-1] + 1].copy(), top, left)


def box_points(
    left: float, top: float, width: float, height: float, degrees: float = 0.0, *, about_center: bool = False
) -> list[float]:
    """Return the outline of a box, turned clockwise about its top left corner or its center."""
    pivot = np.array([width / 2, height / 2] if about_center else [0, 0], np.float64)
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64) - pivot
    return (corners @ _turn(degrees) + pivot + (left, top)).ravel().tolist()


def ellipse_points(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0.0) -> list[float]:
    """Return an outline of 128 points of an ellipse, turned clockwise about its center."""
    angle = np.arange(128) * (2 * np.pi / 128)
    points = np.column_stack([radius_x * np.cos(angle), radius_y * np.sin(angle)])
    return (points @ _turn(degrees) + (x, y)).ravel().tolist()


def _turn(degrees: float) -> np.ndarray:
    """Return the matrix that turns rows (x, y) clockwise, y pointing down."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, sin], [-sin, cos]])


def runs(size: Size, counts: Sequence[int], box: tuple[int, int, int, int], by_columns: bool) -> Patch:
    """Return the pixels of run lengths, which begin with pixels outside.

    Args:
        counts: lengths, outside and inside in turns.
        box: left, top, width and height of the part that they fill.
        by_columns: they run down the columns, as COCO's; else along the rows.
    """
    left, top, width, height = box
    flags = np.zeros(width * height, bool)
    listed = np.repeat(np.arange(len(counts)) & 1, np.asarray(counts, np.int64)).astype(bool)
    flags[: len(listed)] = listed[: len(flags)]
    mask = flags.reshape(width, height).T if by_columns else flags.reshape(height, width)
    return Patch(mask, top, left)
