"""Pictures inside a page: data URIs, small enough for many of them."""

from __future__ import annotations

import base64

import numpy as np

from segcore.opencv import cv2

MAX_WIDTH = 512
"""Pictures are embedded at most this wide, pixels."""


def photo_uri(image: np.ndarray) -> str:
    """Return a photograph as JPEG: (H, W, 3) uint8 BGR."""
    return _uri(_narrow(image, cv2.INTER_AREA), "jpeg", [cv2.IMWRITE_JPEG_QUALITY, 88])


def map_uri(image: np.ndarray) -> str:
    """Return a painted label map as PNG, which keeps its exact colors: (H, W, 3) uint8 BGR."""
    return _uri(_narrow(image, cv2.INTER_NEAREST), "png", [cv2.IMWRITE_PNG_COMPRESSION, 9])


def css_color(color: np.ndarray) -> str:
    """Return an RGB color (3,) uint8 in CSS form."""
    return "#" + "".join(f"{int(value):02x}" for value in color)


def _narrow(image: np.ndarray, interpolation: int) -> np.ndarray:
    height, width = image.shape[:2]
    if width <= MAX_WIDTH:
        return image
    size = (MAX_WIDTH, max(round(height * MAX_WIDTH / width), 1))
    return cv2.resize(image, size, interpolation=interpolation)


def _uri(image: np.ndarray, kind: str, options: list[int]) -> str:
    data = cv2.imencode(f".{kind}", image, options)[1].tobytes()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
