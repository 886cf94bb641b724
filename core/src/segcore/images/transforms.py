"""Training and test transforms on numpy images (docs/protocol 2).

Images are (H, W, 3) uint8 BGR, labels (H, W) uint8 with 255 = ignore. Sizes are (height, width).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from segcore.data.labels import IGNORE
from segcore.images.photometric import distort, draw_distortion
from segcore.images.region import Box, LabelRegion, resize_region
from segcore.images.target_maps import TargetMaps, WholeMaps
from segcore.opencv import cv2
from segcore.recipe import Augment

Family = Literal["M", "S"]
Size = tuple[int, int]

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
"""RGB, on values 0..255."""
CROP_RETRIES = 10
MAX_ANGLE = 30


def resize_bounds(scale: tuple[int, int], ratio: float) -> Size:
    """Return the bounds of a resize: the scale of a recipe, which is (width, height), times a ratio, truncated."""
    return int(scale[1] * ratio), int(scale[0] * ratio)


def resized_size(size: Size, bounds: Size, *, keep_ratio: bool = True, family: Family = "M") -> Size:
    """Return the size that an image is resized to.

    Args:
        size: of the image.
        bounds: keep_ratio: bounds of the two sides, in any order, of which the image reaches the nearer one. Otherwise
            the new size; family S exchanges its sides to match a portrait or landscape image.
    """
    height, width = size
    longest, shortest = max(bounds), min(bounds)
    if keep_ratio:
        factor = min(longest / max(size), shortest / min(size))
        return max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1)
    if family == "S":
        return (longest, shortest) if height > width else (shortest, longest)
    return bounds


def multiple_size(size: Size, divisor: int) -> Size:
    """Return both sides rounded up to a multiple of the divisor."""
    return -(-size[0] // divisor) * divisor, -(-size[1] // divisor) * divisor


def resize_image(image: np.ndarray, size: Size) -> np.ndarray:
    """Resize bilinearly as OpenCV does: half-pixel centers, no antialiasing; an equal size gives the input itself."""
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def resize_label(label: np.ndarray, size: Size) -> np.ndarray:
    """Resize by OpenCV's nearest rule: source index = floor(index * in / out)."""
    if label.shape[:2] == size:
        return label
    return cv2.resize(label, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)


def normalize(image: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return the network's input: RGB, minus mean, times 1 / std.

    Args:
        out: where to write it.

    Shapes:
        image (H, W, 3) uint8 BGR -> (3, H, W) float32
    """
    planes = np.empty((3, *image.shape[:2]), np.float32) if out is None else out
    for channel, plane in enumerate(reversed(cv2.split(image))):
        np.subtract(plane, np.float32(MEAN[channel]), out=planes[channel], dtype=np.float32)
        planes[channel] *= np.float32(1 / STD[channel])
    return planes


def flip_label(label: np.ndarray, pairs: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Mirror a label map horizontally and exchange the left/right classes of each pair."""
    mirrored = cv2.flip(label, 1)
    if not pairs:
        return mirrored
    table = np.arange(256, dtype=np.uint8)
    for left, right in pairs:
        table[[left, right]] = right, left
    return cv2.LUT(mirrored, table)


def rotate_image(image: np.ndarray, angle: float) -> np.ndarray:
    """Rotate about (W/2, H/2) by degrees, positive counter-clockwise: bicubic, same size, black outside."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_CUBIC, borderValue=(0, 0, 0))


def rotate_label(label: np.ndarray, angle: float) -> np.ndarray:
    """Rotate as `rotate_image` by the nearest rule, with ignore outside."""
    height, width = label.shape
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
    return cv2.warpAffine(label, matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=(IGNORE,))


def is_varied(label: np.ndarray, max_ratio: float) -> bool:
    """Tell whether a crop has two labels at least and none with a share of max_ratio or more of the labeled pixels."""
    counts = cv2.calcHist([label], [0], None, [256], [0, 256]).ravel()[:IGNORE].astype(np.float64)
    return bool(np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < max_ratio)


def random_boxes(size: Size, crop: Size, rng: np.random.Generator) -> Iterator[Box]:
    """Yield crop boxes uniform over their places; a box is clipped by an image smaller than the crop."""
    height, width = min(crop[0], size[0]), min(crop[1], size[1])
    while True:
        top = int(rng.integers(size[0] - height + 1))
        left = int(rng.integers(size[1] - width + 1))
        yield Box(top, left, height, width)


def choose_box(
    boxes: Iterator[Box], label_under: Callable[[Box], np.ndarray], max_ratio: float, family: Family
) -> Box | None:
    """Take boxes until the label under one is varied enough (docs/protocol 2.3).

    M tests 10 boxes and uses the 11th unchecked. S uses the 10th unchecked, unless it has no labeled pixel at all:
    then None, the sample stays uncropped.

    Args:
        max_ratio: see `is_varied`; 1 or more accepts the first box.
    """
    box = next(boxes)
    if max_ratio >= 1:
        return box
    for retry in range(CROP_RETRIES):
        label = label_under(box)
        if is_varied(label, max_ratio):
            return box
        if family == "S" and retry == CROP_RETRIES - 1:
            return box if bool(np.any(label != IGNORE)) else None
        box = next(boxes)
    return box


def pad_offset(size: Size, padded: Size, family: Family) -> tuple[Size, Size]:
    """Return the padded size, and where in it the image begins (negative where it is cut instead).

    M pads at right and bottom. S centers, and exchanges the sides of `padded` if only it or the image is portrait.
    """
    if family == "M":
        return padded, (0, 0)
    is_portrait, wants_portrait = size[0] > size[1], padded[0] > padded[1]
    wants_landscape = padded[0] < padded[1]
    if (is_portrait and wants_landscape) or (size[0] < size[1] and wants_portrait):
        padded = (padded[1], padded[0])
    return padded, ((padded[0] - size[0]) // 2, (padded[1] - size[1]) // 2)


def _overlap(length: int, padded: int, start: int) -> tuple[slice, slice]:
    """Return the part of a padded axis, and of the source, where a source of `length` placed at `start` lies inside."""
    low, high = max(start, 0), min(start + length, padded)
    return slice(low, high), slice(low - start, high - start)


def pad_image(image: np.ndarray, size: Size, family: Family = "M") -> np.ndarray:
    """Normalize and pad with 0, the mean color.

    Shapes:
        image (H, W, 3) uint8 BGR -> (3, h, w) float32, see `pad_offset`
    """
    size, (top, left) = pad_offset((image.shape[0], image.shape[1]), size, family)
    if image.shape[:2] == size:
        return normalize(image)
    rows, source_rows = _overlap(image.shape[0], size[0], top)
    columns, source_columns = _overlap(image.shape[1], size[1], left)
    padded = np.zeros((3, *size), np.float32)
    normalize(image[source_rows, source_columns], padded[:, rows, columns])
    return padded


def pad_label(label: np.ndarray, size: Size, family: Family = "M") -> np.ndarray:
    """Pad a label map (H, W), or any map that follows it, with 255; keeps its dtype."""
    size, (top, left) = pad_offset((label.shape[0], label.shape[1]), size, family)
    if label.shape == size:
        return label
    rows, source_rows = _overlap(label.shape[0], size[0], top)
    columns, source_columns = _overlap(label.shape[1], size[1], left)
    padded = np.full(size, IGNORE, label.dtype)
    padded[rows, columns] = label[source_rows, source_columns]
    return padded


def _to_tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))  # pyright: ignore[reportUnknownMemberType]


class TrainTransform:
    """Resize, crop, flip, rotate, distort, normalize and pad one training sample, in the published order.

    With `augment.region_first` the crop is chosen before anything is resized, and only what it keeps is resized. The
    random numbers are the same either way, and so is the result within one gray level.
    """

    def __init__(self, augment: Augment) -> None:
        self.augment = augment

    def __call__(
        self,
        image: np.ndarray,
        label: np.ndarray,
        rng: np.random.Generator,
        maps: TargetMaps | None = None,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Transform one sample.

        Args:
            rng: source of every draw.
            maps: further maps of the label's size, moved and padded as the label.

        Shapes:
            image (H, W, 3) uint8 BGR, label (H, W) uint8 -> (3, h, w) float32, (h, w) int64, maps (h, w) each,
            with (h, w) the crop
        """
        settings = self.augment
        maps = maps or WholeMaps({})
        image, planes = self._crop(image, label, maps, rng)
        draw = float(rng.random())
        if draw < settings.flip or (settings.family == "S" and draw == settings.flip):
            image = cv2.flip(image, 1)
            mirrored = {name: maps.mirrored(name, cv2.flip(plane, 1)) for name, plane in planes.items() if name}
            planes = {"": flip_label(planes[""], settings.flip_pairs), **mirrored}
        if settings.rotation > 0 and float(rng.random()) <= settings.rotation:
            angle = int(rng.integers(-MAX_ANGLE, MAX_ANGLE))
            image = rotate_image(image, angle)
            planes = {name: rotate_label(plane, angle) for name, plane in planes.items()}
            planes |= {name: maps.rotated(name, plane, angle) for name, plane in planes.items() if name}
        if settings.photometric:
            image = distort(image, draw_distortion(rng), family=settings.family)
        padded = {name: pad_label(plane, settings.crop, settings.family) for name, plane in planes.items()}
        tensors = {name: _to_tensor(plane) for name, plane in padded.items()}
        return _to_tensor(pad_image(image, settings.crop, settings.family)), tensors.pop("").long(), tensors

    def _crop(
        self, image: np.ndarray, label: np.ndarray, maps: TargetMaps, rng: np.random.Generator
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Resize and crop the image, the label (called "" in what is returned) and every map."""
        settings = self.augment
        source = (image.shape[0], image.shape[1])
        bounds = resize_bounds(settings.scale, float(rng.uniform(*settings.ratio)))
        size = resized_size(source, bounds, keep_ratio=settings.keep_ratio, family=settings.family)
        boxes = random_boxes(size, settings.crop, rng)
        if settings.region_first:
            region = LabelRegion(source, size)
            box = choose_box(boxes, lambda b: region.cut(label, b), settings.cat_max_ratio, settings.family)
            kept = box or Box(0, 0, *size)
            planes = {"": region.cut(label, kept)}
            under = region.source_box(kept)
            for name, part in maps.cut(under).items():
                planes[name] = region.cut(part, kept, (under.top, under.left))
            return resize_region(image, size, kept), planes
        whole = {"": label, **maps.cut(Box(0, 0, *source))}
        planes = {name: resize_label(plane, size) for name, plane in whole.items()}
        box = choose_box(boxes, lambda b: b.cut(planes[""]), settings.cat_max_ratio, settings.family)
        kept = box or Box(0, 0, *size)
        return kept.cut(resize_image(image, size)), {name: kept.cut(plane) for name, plane in planes.items()}
