"""Pictures of predictions: color overlay, error map, legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from segcore.data.labels import IGNORE
from segcore.opencv import cv2

if TYPE_CHECKING:
    from segcore.data.base import ClassTable

RIGHT_COLOR = (190, 190, 190)
"""Error map: BGR of pixels whose class is right."""
IGNORED_COLOR = (255, 255, 255)
"""Error map: BGR of pixels without a label."""


def colorize(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Paint a label map; pixels outside the palette (255 = ignore) become black.

    Shapes:
        label (H, W) integers, palette (K, 3) uint8 RGB -> (H, W, 3) uint8 BGR
    """
    colors = np.zeros((len(palette) + 1, 3), np.uint8)
    colors[:-1] = palette[:, ::-1]
    return colors[_inside(label, len(palette))]


def _inside(label: np.ndarray, num_classes: int) -> np.ndarray:
    return np.where((label >= 0) & (label < num_classes), label, num_classes).astype(np.intp)


def overlay(image: np.ndarray, label: np.ndarray, palette: np.ndarray, opacity: float) -> np.ndarray:
    """Blend the class colors over an image: image * (1 - o) + color * o, truncated (docs/protocol 8).

    Args:
        opacity: 0 shows the image, 1 the colors; pixels outside the palette show the image.

    Shapes:
        image (H, W, 3) uint8 BGR, label (H, W), palette (K, 3) uint8 RGB -> (H, W, 3) uint8 BGR
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be in 0..1, got {opacity}")
    blended = (image * (1 - opacity) + colorize(label, palette) * opacity).astype(np.uint8)
    is_class = _inside(label, len(palette)) < len(palette)
    return np.where(is_class[..., None], blended, image)


def with_legend(picture: np.ndarray, label: np.ndarray, classes: ClassTable) -> np.ndarray:
    """Put the names and colors of the classes that occur in a label map below a picture of it.

    Shapes:
        picture (H, W, 3) uint8 BGR, label (H, W) -> (H + h, W, 3) uint8 BGR; the picture itself where no class occurs
    """
    present = [int(number) for number in np.unique(label) if 0 <= number < len(classes.names)]
    if not present:
        return picture
    return np.concatenate([picture, legend(classes, present=present, width=picture.shape[1])])


def error_map(prediction: np.ndarray, label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Paint wrong pixels in the color of the class they should have, right ones gray, unlabeled ones white.

    Shapes:
        prediction, label (H, W), palette (K, 3) uint8 RGB -> (H, W, 3) uint8 BGR
    """
    result = colorize(label, palette)
    result[prediction == label] = RIGHT_COLOR
    result[label == IGNORE] = IGNORED_COLOR
    return result


def legend(classes: ClassTable, *, present: Sequence[int] = (), width: int = 960) -> np.ndarray:
    """Draw the names of the classes beside their colors, in as many lines as `width` needs.

    Args:
        present: class numbers to show; empty shows all.
        width: pixels.

    Shapes:
        -> (h, width, 3) uint8 BGR
    """
    numbers = list(present) or list(range(len(classes.names)))
    font, size, line, box, gap = cv2.FONT_HERSHEY_SIMPLEX, 0.45, 22, 14, 18
    places: list[tuple[int, int, int]] = []  # class, x, y
    x, y = 4, 0
    for number in numbers:
        (length, _), _ = cv2.getTextSize(_drawable(classes, number), font, size, 1)
        needed = box + 6 + length + gap
        if x > 4 and x + needed > width:
            x, y = 4, y + line
        places.append((number, x, y))
        x += needed
    picture = np.full((y + line, width, 3), 255, np.uint8)
    for number, left, top in places:
        color = tuple(int(value) for value in classes.palette[number][::-1])
        cv2.rectangle(picture, (left, top + 4), (left + box, top + 4 + box), color, cv2.FILLED)
        cv2.rectangle(picture, (left, top + 4), (left + box, top + 4 + box), (90, 90, 90), 1)
        origin = (left + box + 6, top + 4 + box - 3)
        cv2.putText(picture, _drawable(classes, number), origin, font, size, (30, 30, 30), 1, cv2.LINE_AA)
    return picture


def _drawable(classes: ClassTable, number: int) -> str:
    """Return the name of a class, or its number where OpenCV's font has no letters for the name."""
    name = classes.names[number]
    return name if name.isascii() else f"class {number}"
