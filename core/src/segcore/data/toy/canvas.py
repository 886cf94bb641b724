"""What a toy scene is drawn on: a pinhole camera over a ground plane, and an image with its label.

Street coordinates are meters: x to the right of the road's center line, y up from the ground, z ahead of the camera.
Every object is drawn into the image and the label by the same polygon, so that the label is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segcore.opencv import cv2

SKY, ROAD, BUILDING, TREE, CAR, PERSON, POLE, LANE = range(8)

_SHIFT = 4  # OpenCV takes fixed-point coordinates: 4 fractional bits = 1/16 pixel
_FIXED = 1 << _SHIFT

Color = tuple[float, float, float]
"""BGR, 0-255."""


class Camera(NamedTuple):
    """Pinhole camera that looks along the road, without roll.

    focal, center (column of the view direction) and horizon (row) are pixels; height (above the ground) and offset
    (from the road's center line) are meters; curve bends the road: it is at x = curve * z^2. near is the smallest depth
    drawn, meters: less than that of the ground at the lower image border.
    """

    focal: float
    center: float
    horizon: float
    height: float
    offset: float
    curve: float
    near: float

    def project(self, points: np.ndarray) -> np.ndarray:
        """Street points (N, 3) in meters -> pixels (N, 2) as (column, row)."""
        x, y, z = points.T
        z = np.maximum(z, self.near)
        per_meter = self.focal / z
        pixels = np.empty((len(points), 2))
        pixels[:, 0] = self.center + per_meter * (x - self.offset + self.curve * z * z)
        pixels[:, 1] = self.horizon + per_meter * (self.height - y)
        return pixels

    def ground(self, x: float, z: float) -> tuple[float, float, float]:
        """Pixel (column, row) of a ground point and the pixels per meter at its depth."""
        per_meter = self.focal / z
        return (
            self.center + per_meter * (x - self.offset + self.curve * z * z),
            self.horizon + per_meter * self.height,
            per_meter,
        )


class Haze(NamedTuple):
    """Air between camera and object: the color that distance fades to, and the distance in meters of 63 % fading."""

    color: Color
    distance: float

    def fade(self, depth: float) -> float:
        """Share of the haze color at a depth in meters."""
        return 1.0 - math.exp(-depth / self.distance)

    def mix(self, color: Color, depth: float) -> Color:
        """Color of an object at a depth in meters."""
        share = self.fade(depth)
        return (
            color[0] + share * (self.color[0] - color[0]),
            color[1] + share * (self.color[1] - color[1]),
            color[2] + share * (self.color[2] - color[2]),
        )


def shade(color: Color, factor: float) -> Color:
    """Multiply a color; it may exceed 255, drawing saturates."""
    return color[0] * factor, color[1] * factor, color[2] * factor


def fixed_point(pixels: np.ndarray) -> np.ndarray:
    """Pixel coordinates in the units of OpenCV's drawing functions, int32 sixteenths."""
    return (pixels * _FIXED).astype(np.int32)


class Canvas:
    """Image (H, W, 3) uint8 BGR and label (H, W) uint8 under one camera.

    Args:
        size: height and width, pixels.
    """

    def __init__(self, size: tuple[int, int], camera: Camera, haze: Haze) -> None:
        self.height, self.width = size
        self.camera = camera
        self.haze = haze
        self.image = np.zeros((*size, 3), np.uint8)
        self.label = np.full(size, SKY, np.uint8)

    def fill(self, pixels: np.ndarray, color: Color, label: int | None) -> None:
        """Fill a convex polygon (N, 2) in pixels; label None leaves the label alone (details, shadows)."""
        self.fill_fixed(fixed_point(pixels), color, label)

    def fill_fixed(self, fixed: np.ndarray, color: Color, label: int | None) -> None:
        """`fill` with coordinates from `fixed_point`, for objects of many polygons."""
        cv2.fillConvexPoly(self.image, fixed, color, cv2.LINE_AA, _SHIFT)
        if label is not None:
            cv2.fillConvexPoly(self.label, fixed, label, cv2.LINE_8, _SHIFT)

    def fill_regions(self, outlines: Sequence[np.ndarray], color: Color, label: int) -> None:
        """Fill polygons of any shape, (N, 2) in pixels each, that do not overlap."""
        fixed = [fixed_point(outline) for outline in outlines]
        cv2.fillPoly(self.image, fixed, color, cv2.LINE_AA, _SHIFT)
        cv2.fillPoly(self.label, fixed, label, cv2.LINE_8, _SHIFT)

    def lines(self, paths: Sequence[np.ndarray], color: Color, label: int | None) -> None:
        """Draw polylines, (N, 2) in pixels each, one pixel wide in an image of 192 rows; label None as in `fill`."""
        fixed = [fixed_point(path) for path in paths]
        width = max(round(self.camera.focal / 160), 1)
        cv2.polylines(self.image, fixed, False, color, width, cv2.LINE_AA, _SHIFT)
        if label is not None:
            cv2.polylines(self.label, fixed, False, label, width, cv2.LINE_8, _SHIFT)

    def wall(self, pixels: np.ndarray, texture: np.ndarray, label: int) -> None:
        """Stretch a texture (h, w, 3) over a quadrangle.

        Args:
            pixels: (4, 2) the texture's top left, top right, bottom right and bottom left corner.
        """
        left, top = np.maximum(np.floor(pixels.min(axis=0)).astype(int), 0)
        right, bottom = np.minimum(np.ceil(pixels.max(axis=0)).astype(int) + 1, (self.width, self.height))
        if right <= left or bottom <= top:
            return
        height, width = texture.shape[:2]
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        placed = (pixels - (left, top)).astype(np.float32)
        matrix = cv2.getPerspectiveTransform(corners, placed)
        warped = cv2.warpPerspective(
            texture,
            matrix,
            (int(right - left), int(bottom - top)),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        mask = np.zeros(warped.shape[:2], np.uint8)
        cv2.fillConvexPoly(mask, fixed_point(placed), 255, cv2.LINE_8, _SHIFT)
        self._paste(warped, mask, top, left, label)

    def sprite(
        self,
        tones: np.ndarray,
        mask: np.ndarray,
        colors: np.ndarray,
        box: tuple[float, float, float, float],
        label: int,
    ) -> None:
        """Paste a picture of one material.

        Args:
            tones, mask: (h, w) uint8; a tone is an index of `colors`.
            colors: (256, 1, 3) uint8.
            box: left, top, right, bottom in pixels.
        """
        left, top = round(box[0]), round(box[1])
        width, height = max(round(box[2]) - left, 1), max(round(box[3]) - top, 1)
        y, x = slice(max(-top, 0), self.height - top), slice(max(-left, 0), self.width - left)
        if left >= self.width or top >= self.height or left + width <= 0 or top + height <= 0:
            return
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR)[y, x]
        tones = cv2.resize(tones, (width, height), interpolation=cv2.INTER_LINEAR)[y, x]
        _, mask = cv2.threshold(mask, 127, 255, cv2.THRESH_BINARY)
        self._paste(cv2.applyColorMap(tones, colors), mask, max(top, 0), max(left, 0), label)

    def _paste(self, texture: np.ndarray, mask: np.ndarray, top: int, left: int, label: int) -> None:
        height, width = mask.shape
        area = (slice(top, top + height), slice(left, left + width))
        cv2.copyTo(texture, mask, self.image[area])
        self.label[area][mask != 0] = label
