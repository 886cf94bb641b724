"""Distance of every pixel to the border of its class, and the direction away from it (unept/PAPER 8).

The boundary heads learn from both: pixels near a border are the boundary, and the direction, that of the distance's
gradient, points from there into the class, as in SegFix. A class counts as a whole, not per instance, and only with 100
pixels or more in the image; void and smaller classes keep distance 0 and angle 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from segcore.data.labels import IGNORE
from segcore.images.region import Box
from segcore.opencv import cv2

MIN_PIXELS = 100
"""A class with fewer pixels in the image has no distances."""
MAX_DISTANCE = 250
DEGREES_PER_STEP = 2
"""Angles are stored in steps of this many degrees."""
_REACH = 2  # pixels to each side that the gradient looks at
_BLOCK = 8  # pixels; pieces of a class are told apart on this grid
_SMALL = 4096  # pixels of a box that is not worth dividing
_LANES = 16  # OpenCV filters this many pixels at once, and the rest of a row with another rounding


class BoundaryMaps(NamedTuple):
    """What a `dt_offset` file stores.

    Shapes:
        depth (H, W) uint8, whole pixels to the nearest pixel of another class, at most 250
        direction (H, W) uint8, (angle + 180) / 2 rounded down, 0 to 180; angle 0 is right, 90 is down
    """

    depth: np.ndarray
    direction: np.ndarray

    def angle(self) -> np.ndarray:
        """Return the direction in degrees, -180 to 180.

        Shapes:
            -> (H, W) float32
        """
        return self.direction.astype(np.float32) * DEGREES_PER_STEP - 180


def boundary_maps(label: np.ndarray, box: Box | None = None) -> BoundaryMaps:
    """Compute the maps of a label, or of that part of them which lies under a box: the same values, at less cost.

    Classes are counted, and distances measured, in the whole label either way.

    Args:
        box: the part that is wanted; None is the whole.

    Shapes:
        label (H, W) uint8 train ids, 255 = void -> (box.height, box.width) each
    """
    size = (label.shape[0], label.shape[1])
    box = box or Box(0, 0, *size)
    depth, down, right = (np.zeros((box.height, box.width), np.float32) for _ in range(3))
    has_distance = (_counts(label) >= MIN_PIXELS) & (_counts(box.cut(label)) > 0)
    for number in np.flatnonzero(has_distance[:IGNORE]):
        for mask, extent in separate_pieces((label == number).view(np.uint8) * np.uint8(255), box):
            kept = _common(extent, box)
            if kept.height <= 0 or kept.width <= 0:
                continue
            part = _common(extent, _grown(box, _REACH, size))
            distance = piece_distance(mask, extent, part, size)
            down_here, right_here = distance_gradient(distance)
            source, target = _within(kept, part), _within(kept, box)
            inside = _within(kept, extent).cut(mask)
            for values, plane in ((distance, depth), (down_here, down), (right_here, right)):
                cv2.copyTo(source.cut(values), inside, target.cut(plane))
    angle = np.arctan2(down, right, out=down)
    np.degrees(angle, out=angle)
    angle += 180
    angle /= DEGREES_PER_STEP
    return BoundaryMaps(np.minimum(depth, MAX_DISTANCE, out=depth).astype(np.uint8), angle.astype(np.uint8))


def separate_pieces(mask: np.ndarray, box: Box) -> Iterator[tuple[np.ndarray, Box]]:
    """Yield the pieces of a class that reach into a box or near it, each whole and with its own bounding box.

    Pieces lie apart by more than the gradient's reach.

    The pixel outside a class that is nearest to one of its pixels touches the same piece, so each piece has its
    distances to itself; the boxes of all are a fraction of that of the class.

    Shapes:
        mask (H, W) uint8, 0 or 255 -> pieces (height, width) of their boxes
    """
    blocks = (-(-mask.shape[0] // _BLOCK), -(-mask.shape[1] // _BLOCK))
    below, beside = blocks[0] * _BLOCK - mask.shape[0], blocks[1] * _BLOCK - mask.shape[1]
    padded = cv2.copyMakeBorder(mask, 0, below, 0, beside, cv2.BORDER_CONSTANT, value=0)
    # One pixel of 255 in a block gives a mean of 4: no block is lost.
    coarse = cv2.resize(padded, blocks[::-1], interpolation=cv2.INTER_AREA)
    _, numbers, stats, _ = cv2.connectedComponentsWithStats(coarse, connectivity=8)
    for number, (left, top, width, height, _) in enumerate(stats[1:].tolist(), 1):
        place = Box(_BLOCK * top, _BLOCK * left, _BLOCK * height, _BLOCK * width)
        if min(_common(place, box)[2:]) <= 0:
            continue
        own = (Box(top, left, height, width).cut(numbers) == number).astype(np.uint8)
        piece = place.cut(padded)
        if not own.all():
            piece = cv2.bitwise_and(
                piece, 255 * cv2.resize(own, (place.width, place.height), interpolation=cv2.INTER_NEAREST)
            )
        inside = Box(*np.array(cv2.boundingRect(piece))[[1, 0, 3, 2]].tolist())
        yield inside.cut(piece), inside._replace(top=place.top + inside.top, left=place.left + inside.left)


def piece_distance(mask: np.ndarray, extent: Box, part: Box, size: tuple[int, int]) -> np.ndarray:
    """Return the Euclidean distance to the nearest pixel outside a piece; the image's border is not outside.

    Args:
        extent: place of the piece in the image.
        part: where the distance is wanted, inside the extent.
        size: height and width of the image.

    Shapes:
        mask (extent.height, extent.width) uint8, 255 in the piece -> (part.height, part.width) float32, 0 outside it
    """
    if extent == Box(0, 0, *size) and cv2.countNonZero(mask) == mask.size:
        return _distance_without_outside(part)
    near = extent
    if part != extent and mask.size > _SMALL:
        near = _common(extent, _grown(part, distance_bound(mask, extent, part, size), size))
    known, (above, beside) = _surrounded(_within(near, extent).cut(mask), near, extent, size)
    origin = Box(near.top - above, near.left - beside, known.shape[0], known.shape[1])
    distance = _within(part, origin).cut(cv2.distanceTransform(known, cv2.DIST_L2, cv2.DIST_MASK_PRECISE))
    # OpenCV's square root differs in the last bit with the place in the row; squares are whole numbers.
    return np.sqrt(np.rint(distance * distance))


def distance_bound(mask: np.ndarray, extent: Box, part: Box, size: tuple[int, int]) -> int:
    """Return a number of pixels that no distance in a part of a piece exceeds; arguments as of `piece_distance`.

    Told from distances between blocks that lie inside the piece and blocks that do not: two pixels are at most
    7 sqrt(2) pixels farther apart than the centers of their blocks.
    """
    below, beside = -extent.height % _BLOCK, -extent.width % _BLOCK
    padded = cv2.copyMakeBorder(mask, 0, below, 0, beside, cv2.BORDER_REPLICATE)
    blocks = (padded.shape[1] // _BLOCK, padded.shape[0] // _BLOCK)
    is_inside = (cv2.resize(padded, blocks, interpolation=cv2.INTER_AREA) == 255).astype(np.uint8)
    known, (top, left) = _surrounded(is_inside, extent, extent, size)
    if known.all():
        return max(size)
    place = _within(part, extent)
    rows = slice(top + place.top // _BLOCK, top + (place.top + place.height - 1) // _BLOCK + 1)
    columns = slice(left + place.left // _BLOCK, left + (place.left + place.width - 1) // _BLOCK + 1)
    distance = cv2.distanceTransform(known, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[rows, columns]
    return int(_BLOCK * float(distance.max()) + (_BLOCK - 1) * 2**0.5) + 1


def _surrounded(inner: np.ndarray, near: Box, extent: Box, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """Return what `near` holds of a piece with a line of zeros where the piece ends there; and the lines before it.

    What is next to the extent is outside the piece, and nearer than all beyond it; beyond the image there is nothing.
    """
    bottom, right = extent.top + extent.height, extent.left + extent.width
    above, beside = int(near.top == extent.top > 0), int(near.left == extent.left > 0)
    below = int(near.top + near.height == bottom < size[0])
    beyond = int(near.left + near.width == right < size[1])
    return cv2.copyMakeBorder(inner, above, below, beside, beyond, cv2.BORDER_CONSTANT, value=0), (above, beside)


def _distance_without_outside(part: Box) -> np.ndarray:
    """Return the distances in an image of one class: SciPy measures to a virtual pixel at row -1, column 0."""
    rows = np.arange(part.top, part.top + part.height, dtype=np.float64)[:, None]
    columns = np.arange(part.left, part.left + part.width, dtype=np.float64)
    return np.hypot(rows + 1, columns).astype(np.float32)


def _gradient_kernel() -> np.ndarray:
    """Return y / (x^2 + y^2) over x, y in -2...2, 0 in the center."""
    y, x = np.mgrid[-_REACH : _REACH + 1, -_REACH : _REACH + 1].astype(np.float32)
    squares = x * x + y * y
    return np.divide(y, squares, out=np.zeros_like(y), where=squares > 0)


_DOWN = _gradient_kernel()
_RIGHT = np.ascontiguousarray(_DOWN.T)


def distance_gradient(distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlate with the two 5x5 kernels, zeros around: distances seem to fall off at the image's border.

    Shapes:
        distance (h, w) float32 -> down, right (h, w) float32 each
    """
    width = distance.shape[1]
    whole_lanes = cv2.copyMakeBorder(distance, 0, 0, 0, -width % _LANES, cv2.BORDER_CONSTANT, value=0)
    down, right = (cv2.filter2D(whole_lanes, -1, kernel, borderType=cv2.BORDER_CONSTANT) for kernel in (_DOWN, _RIGHT))
    return down[:, :width], right[:, :width]


def _counts(label: np.ndarray) -> np.ndarray:
    """Return how often each value occurs, (256,); the label may be a view."""
    return cv2.calcHist([np.ascontiguousarray(label)], [0], None, [256], [0, 256]).ravel()


def _grown(box: Box, margin: int, size: tuple[int, int]) -> Box:
    """Return a box with a margin around, inside the image."""
    return _common(
        Box(box.top - margin, box.left - margin, box.height + 2 * margin, box.width + 2 * margin), Box(0, 0, *size)
    )


def _common(one: Box, other: Box) -> Box:
    """Return what two boxes have in common; sides of 0 or less where that is nothing."""
    top, left = max(one.top, other.top), max(one.left, other.left)
    bottom = min(one.top + one.height, other.top + other.height)
    right = min(one.left + one.width, other.left + other.width)
    return Box(top, left, bottom - top, right - left)


def _within(box: Box, outer: Box) -> Box:
    """Return a box in the coordinates of one around it."""
    return box._replace(top=box.top - outer.top, left=box.left - outer.left)
