"""Training and test transforms on numpy images (docs/protocol 2).

Images are (H, W, 3) uint8 BGR, labels (H, W) uint8 with 255 = ignore. Sizes are (height, width).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
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


def normalize(pixels: Tensor, boxes: Sequence[Box] = ()) -> Tensor:
    """Return the network's input: minus mean, times 1 / std; 0, the mean color, where there is padding.

    It is for the device to do: bytes travel cheaper.

    Args:
        boxes: what of each image is not padding; none where there is no padding.

    Shapes:
        pixels (..., 3, H, W) uint8 RGB -> the same float32
    """
    images = pixels.float()
    for channel, mean, std in zip(images.unbind(-3), MEAN, STD, strict=True):
        channel.sub_(mean).mul_(1 / std)
    for image, (top, left, height, width) in zip(images, boxes, strict=False):
        for outside in (image[:, :top], image[:, top + height :], image[..., :left], image[..., left + width :]):
            outside.zero_()
    return images


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


class Padding(NamedTuple):
    """How planes of one size are padded.

    Attributes:
        size: that they get.
        box: what of the result is not padding.
        kept: what of a plane is there; the rest is cut.
    """

    size: Size
    box: Box
    kept: Box

    def pad(self, plane: np.ndarray) -> np.ndarray:
        """Pad a plane (H, W) with 255; keeps its dtype."""
        if plane.shape == self.size:
            return plane
        padded = np.full(self.size, IGNORE, plane.dtype)
        self.box.cut(padded)[:] = self.kept.cut(plane)
        return padded

    def pad_image(self, image: np.ndarray) -> np.ndarray:
        """Pad every channel.

        Shapes:
            image (H, W, 3) uint8 BGR -> (3, h, w) uint8 RGB
        """
        return np.stack([self.pad(channel) for channel in reversed(cv2.split(image))])


def padding(size: Size, padded: Size, family: Family = "M") -> Padding:
    """Return how planes of a size are padded to another one, and cut where they are larger (docs/protocol 2.7).

    M pads at right and bottom. S centers, and exchanges the sides of `padded` if only it or the plane is portrait.
    """
    top = left = 0
    if family == "S":
        if (size[0] - size[1]) * (padded[0] - padded[1]) < 0:
            padded = (padded[1], padded[0])
        top, left = (padded[0] - size[0]) // 2, (padded[1] - size[1]) // 2
    height, width = min(size[0], padded[0]), min(size[1], padded[1])
    box, kept = (Box(max(sign * top, 0), max(sign * left, 0), height, width) for sign in (1, -1))
    return Padding(padded, box, kept)


class TrainSample(NamedTuple):
    """One training sample as bytes; `normalize` makes what the network takes.

    Attributes:
        box: what of it is not padding.

    Shapes:
        pixels (3, h, w) uint8 RGB, label (h, w) uint8, maps (h, w) each; 255 in the padding of all
    """

    pixels: np.ndarray
    label: np.ndarray
    maps: dict[str, np.ndarray]
    box: Box


class TrainTransform:
    """Resize, crop, flip, rotate, distort and pad one training sample, in the published order.

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
    ) -> TrainSample:
        """Transform one sample; (h, w) of what comes is the crop.

        Args:
            rng: source of every draw.
            maps: further maps of the label's size, moved and padded as the label.

        Shapes:
            image (H, W, 3) uint8 BGR, label (H, W) uint8
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
        around = padding((image.shape[0], image.shape[1]), settings.crop, settings.family)
        padded = {name: around.pad(plane) for name, plane in planes.items()}
        return TrainSample(around.pad_image(image), padded.pop(""), padded, around.box)

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
