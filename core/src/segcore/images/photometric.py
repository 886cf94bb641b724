"""Random brightness, contrast, saturation and hue of training images (docs/protocol 2.5)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from segcore.opencv import cv2

MAX_BRIGHTNESS = 32.0
CONTRAST_RANGE = (0.5, 1.5)
SATURATION_RANGE = (0.5, 1.5)
MAX_HUE = 18
_HUES = 180  # OpenCV stores hue in steps of 2 degrees

_TO_HSV = {"M": cv2.COLOR_BGR2HSV, "S": cv2.COLOR_RGB2HSV}
_FROM_HSV = {"M": cv2.COLOR_HSV2BGR, "S": cv2.COLOR_HSV2RGB}


class Distortion(NamedTuple):
    """What was drawn for one image; None leaves a step out.

    Attributes:
        brightness: added to every value, gray levels.
        contrast: factor on every value.
        contrast_first: contrast comes before saturation and hue, else after them.
        saturation: factor on the S channel.
        hue: added to the H channel (0..179), modulo 180.
    """

    brightness: float | None = None
    contrast: float | None = None
    contrast_first: bool = False
    saturation: float | None = None
    hue: int | None = None


def draw_distortion(rng: np.random.Generator) -> Distortion:
    """Draw every step with probability one half, in the published order of draws."""

    def is_on() -> bool:
        return bool(rng.integers(2))

    brightness = float(rng.uniform(-MAX_BRIGHTNESS, MAX_BRIGHTNESS)) if is_on() else None
    contrast_first = is_on()
    contrast = float(rng.uniform(*CONTRAST_RANGE)) if contrast_first and is_on() else None
    saturation = float(rng.uniform(*SATURATION_RANGE)) if is_on() else None
    hue = int(rng.integers(-MAX_HUE, MAX_HUE)) if is_on() else None
    if not contrast_first:
        contrast = float(rng.uniform(*CONTRAST_RANGE)) if is_on() else None
    return Distortion(brightness, contrast, contrast_first, saturation, hue)


def _linear_table(factor: float, offset: float) -> np.ndarray:
    """Return v * factor + offset for v = 0..255: float32 arithmetic, clip, truncate, as published."""
    levels = np.arange(256, dtype=np.float32)
    return np.clip(levels * np.float32(factor) + np.float32(offset), 0, 255).astype(np.uint8)


def _hue_table(shift: int) -> np.ndarray:
    return ((np.arange(256) + shift) % _HUES).astype(np.uint8)


def _change_hsv(image: np.ndarray, channel: int, table: np.ndarray, family: Literal["M", "S"]) -> np.ndarray:
    """Apply a table to one channel of the 8-bit HSV form. The round trip is lossy, so two changes need two of them."""
    hsv = cv2.cvtColor(image, _TO_HSV[family])
    planes = list(cv2.split(hsv))
    planes[channel] = cv2.LUT(planes[channel], table)
    return cv2.cvtColor(cv2.merge(planes), _FROM_HSV[family])


def distort(image: np.ndarray, draws: Distortion, *, family: Literal["M", "S"] = "M") -> np.ndarray:
    """Return the image with the drawn changes; the input stays as it is.

    Args:
        image: (H, W, 3) uint8 BGR.
        family: S converts with red and blue exchanged, so that hue shifts the other way.
    """
    table = None if draws.brightness is None else _linear_table(1.0, draws.brightness)
    contrast = None if draws.contrast is None else _linear_table(draws.contrast, 0.0)
    if contrast is not None and draws.contrast_first:
        table = contrast if table is None else contrast[table]  # two look-ups in one: equal to one after the other
    if table is not None:
        image = cv2.LUT(image, table)
    if draws.saturation is not None:
        image = _change_hsv(image, 1, _linear_table(draws.saturation, 0.0), family)
    if draws.hue is not None:
        image = _change_hsv(image, 0, _hue_table(draws.hue), family)
    if contrast is not None and not draws.contrast_first:
        image = cv2.LUT(image, contrast)
    return image
