"""Resizing of only that part of an image which a crop keeps.

The training crop covers a small share of an enlarged image, so resizing first and cropping afterwards wastes most of
the work. Here the crop is chosen first, from the sizes alone, and the source region under it is resized.

OpenCV samples output pixel i at source position (i + 0.5) * in / out - 0.5. Cutting the source at its far end keeps
that grid; cutting it at its near end would shift it by a fraction of a pixel. So a crop near the far end is taken from
the mirrored source: the grid is symmetric, and on each axis at most half of what the crop does not need is resized.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from segcore.opencv import cv2


class Box(NamedTuple):
    """A rectangle in pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, array: np.ndarray) -> np.ndarray:
        """Return the part of an array (H, W, ...) under the box, as a view."""
        return array[self.top : self.top + self.height, self.left : self.left + self.width]


class _Span(NamedTuple):
    """One axis of a region.

    Attributes:
        source: part of the source axis to resize.
        is_mirrored: the part is counted and resized from the far end.
        start: first output pixel to keep, counted from the same end.
    """

    source: slice
    is_mirrored: bool
    start: int


def _span(source: int, resized: int, start: int, length: int) -> _Span:
    """Return what is needed of an axis that is resized from source to resized pixels, then cut to start, length."""
    is_mirrored = start > resized - start - length
    if is_mirrored:
        start = resized - start - length
    # The last kept pixel is sampled between source pixels floor(p) and floor(p) + 1; one more absorbs rounding.
    position = (start + length - 0.5) * source / resized - 0.5
    end = min(int(np.floor(position)) + 3, source)
    return _Span(slice(source - end, source) if is_mirrored else slice(0, end), is_mirrored, start)


def resize_region(image: np.ndarray, size: tuple[int, int], box: Box) -> np.ndarray:
    """Return what bilinear resizing and then cutting out the box would give, within one gray level.

    Args:
        image: (H, W, 3) uint8.
        size: height and width of the whole resized image.
        box: part of the resized image, inside it.

    Shapes:
        -> (box.height, box.width, 3) uint8
    """
    height, width = image.shape[:2]
    rows = _span(height, size[0], box.top, box.height)
    columns = _span(width, size[1], box.left, box.width)
    source = image[rows.source, columns.source]
    if size != (height, width) and _is_copied(source, size[0] / height, size[1] / width):
        return box.cut(cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR))
    region = _mirror(source, rows.is_mirrored, columns.is_mirrored)
    if size != (height, width):
        # Factors, not a size: the step of the grid must stay that of the whole image.
        region = cv2.resize(region, None, fx=size[1] / width, fy=size[0] / height, interpolation=cv2.INTER_LINEAR)
    kept = Box(rows.start, columns.start, box.height, box.width).cut(region)
    return _mirror(kept, rows.is_mirrored, columns.is_mirrored)


def _is_copied(source: np.ndarray, row_factor: float, column_factor: float) -> bool:
    """Tell whether OpenCV would copy: it does where the rounded size is unchanged, though the factors are not 1."""
    height, width = source.shape[:2]
    return round(height * row_factor) == height and round(width * column_factor) == width


def _mirror(image: np.ndarray, vertically: bool, horizontally: bool) -> np.ndarray:
    if not (vertically or horizontally):
        return image
    return cv2.flip(image, -1 if vertically and horizontally else int(horizontally))


def nearest_index(source: int, resized: int) -> np.ndarray:
    """Return the source index of every pixel of an axis resized by OpenCV's nearest rule, floor(i * source / resized).

    Shapes:
        -> (resized,) int64
    """
    step = 1 / (resized / source)  # OpenCV divides twice; the same rounding gives the same index
    return np.minimum(np.floor(np.arange(resized) * step).astype(np.int64), source - 1)


class LabelRegion:
    """A label map (or any other map) to be resized by the nearest rule, of which only boxes are ever computed.

    Args:
        size: height and width of the whole resized map.
    """

    def __init__(self, source: tuple[int, int], size: tuple[int, int]) -> None:
        self.rows = nearest_index(source[0], size[0])
        self.columns = nearest_index(source[1], size[1])
        self._last: tuple[np.ndarray, Box, np.ndarray] | None = None

    def source_box(self, box: Box) -> Box:
        """Return the part of the source that a box of the resized map is taken from."""
        top, left = int(self.rows[box.top]), int(self.columns[box.left])
        bottom, right = int(self.rows[box.top + box.height - 1]), int(self.columns[box.left + box.width - 1])
        return Box(top, left, bottom - top + 1, right - left + 1)

    def cut(self, array: np.ndarray, box: Box, origin: tuple[int, int] = (0, 0)) -> np.ndarray:
        """Return what resizing the array (H, W) and cutting out the box gives, exactly.

        The last result is remembered: the box that the crop decision looked at is usually the one it keeps.

        Args:
            origin: row and column of the source where the array begins, if it is only a part that covers the box.
        """
        if self._last is not None and self._last[0] is array and self._last[1] == box:
            return self._last[2]
        rows = self.rows[box.top : box.top + box.height] - origin[0]
        columns = self.columns[box.left : box.left + box.width] - origin[1]
        part = array[rows].take(columns, axis=1)
        self._last = (array, box, part)
        return part
