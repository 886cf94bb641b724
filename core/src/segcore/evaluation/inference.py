"""Inference on whole images, in windows, over scales and mirrored, docs/protocol 3.

Shapes: B images (2 where the mirrored image runs along), K classes. Images of the network are normalized RGB float32
(B, 3, H, W). Values of the classes are logits, or probabilities where a protocol averages those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcore.evaluation.logit_map import LogitMap, row_table
from segcore.images.transforms import multiple_size, normalize, resize_bounds, resize_image, resized_size
from segcore.layers.replay import Replays
from segcore.recipe import Evaluate

BAND_BYTES = {"cpu": 2 << 20, "cuda": 256 << 20}
"""Values enlarged at a time: what stays in the cache of each CPU core, or what keeps a GPU busy."""


CPU_PIXELS = 512 * 512
"""Pixels in one forward pass on a CPU, where larger batches cost memory and are no faster; one image at least."""


class View(NamedTuple):
    """One scale of an image: all of the preprocessing that a loader process does.

    Attributes:
        pixels: (h, w, 3) uint8 BGR. Normalizing, mirroring and padding are left to the device: bytes travel cheaper.
        factor: family S: the normalized pixels are interpolated by it.
    """

    pixels: Tensor
    factor: float


def views(image: np.ndarray, protocol: Evaluate) -> list[View]:
    """Return the scales of a decoded image, in the order of `protocol.ratios` (docs/protocol 3.3).

    Family M resizes the decoded image once per ratio; family S once in all, the rest is interpolated on the device.

    Args:
        image: (H, W, 3) uint8 BGR, any size.
    """
    if protocol.family == "S":
        pixels = _resized(image, protocol, 1.0)
        return [View(pixels, ratio) for ratio in protocol.ratios]
    return [View(_resized(image, protocol, ratio), 1.0) for ratio in protocol.ratios]


def _resized(image: np.ndarray, protocol: Evaluate, ratio: float) -> Tensor:
    bounds = resize_bounds(protocol.scale, ratio)
    size = resized_size(
        (image.shape[0], image.shape[1]), bounds, keep_ratio=protocol.keep_ratio, family=protocol.family
    )
    pixels = resize_image(image, size)
    if protocol.resize_divisor:
        pixels = resize_image(pixels, multiple_size(size, protocol.resize_divisor))
    return torch.from_numpy(np.require(pixels, requirements=["C", "W"]))  # pyright: ignore[reportUnknownMemberType]


def network_input(view: View, protocol: Evaluate, device: torch.device) -> tuple[Tensor, tuple[int, int]]:
    """Return what the network sees of a view, and the size of it that is not padding.

    Shapes:
        (B, 3, H, W) float32; B is 2 with `protocol.flip` (as it is, mirrored), else 1. Padding is 0 = mean color, added
        at right and bottom after mirroring.
    """
    pixels = view.pixels.to(device, non_blocking=True).permute(2, 0, 1).flip(0)  # (3, h, w) RGB
    image = interpolated(normalize(pixels).unsqueeze(0), view.factor)
    if protocol.flip:
        image = torch.cat([image, image.flip(-1)])
    height, width = image.shape[-2:]
    if protocol.pad_divisor:
        image = _pad(image, multiple_size((height, width), protocol.pad_divisor))
    return image, (height, width)


def interpolated(image: Tensor, factor: float) -> Tensor:
    """Interpolate an image (B, 3, H, W) as family S does: by a factor, with the sampling grid (i + 0.5) / factor."""
    if factor == 1:
        return image
    return F.interpolate(image, scale_factor=factor, mode="bilinear", align_corners=False)


def _pad(image: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = image.shape[-2:]
    if (height, width) == size:
        return image
    return F.pad(image, (0, size[1] - width, 0, size[0] - height))


def _starts(length: int, crop: int, stride: int) -> tuple[int, ...]:
    """Return where windows start along an axis; the last ones shift back inside (docs/protocol 3.2)."""
    count = max(length - crop + stride - 1, 0) // stride + 1
    return tuple(max(min(i * stride + crop, length) - crop, 0) for i in range(count))


class Grid(NamedTuple):
    """The windows of an image.

    Attributes:
        tops, lefts: rows and columns where they start.
        window: height and width of each.
        padded: size that the network takes in its place.
    """

    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    window: tuple[int, int]
    padded: tuple[int, int]


def grid_of(model: nn.Module, size: tuple[int, int], protocol: Evaluate) -> Grid:
    """Return the windows of an image of a size (height, width); one where the protocol takes it whole."""
    crop, stride = (size, (1, 1)) if protocol.mode == "whole" else (protocol.crop, protocol.stride)
    tops, lefts = (_starts(size[axis], crop[axis], stride[axis]) for axis in (0, 1))
    window = (min(crop[0], size[0]), min(crop[1], size[1]))
    legal_size: Callable[[int, int], tuple[int, int]] | None = getattr(model, "legal_size", None)
    padded = crop if protocol.pad_window else window
    return Grid(tops, lefts, window, legal_size(*padded) if legal_size else padded)


def logit_map(model: nn.Module, image: Tensor, protocol: Evaluate, valid: tuple[int, int] | None = None) -> LogitMap:
    """Run the network on an image, whole or in windows, and keep its logits at the head's resolution.

    A network that pads its input to sizes its backbone can take (`legal_size`) gets it padded here, so that its logits
    come back at the head's resolution too.

    Shapes:
        image (B, 3, H, W) -> map of (B, K, H, W), cut to `valid` (height, width)
    """
    height, width = image.shape[-2:]
    grid = grid_of(model, (height, width), protocol)
    (tops, lefts), window = grid[:2], grid.window
    crops = [image[..., y : y + window[0], x : x + window[1]] for y, x in product(tops, lefts)]
    return map_of_windows(_forward(model, crops, grid.padded, protocol), grid, (height, width), protocol, valid)


def map_of_windows(
    values: list[Tensor],
    grid: Grid,
    size: tuple[int, int],
    protocol: Evaluate,
    valid: tuple[int, int] | None = None,
) -> LogitMap:
    """Return the map of an image of a size, given the logits (B, K, h', w') of its windows row by row.

    Args:
        valid: see `logit_map`.
    """
    tops, lefts, window, padded = grid
    is_softmax = protocol.family == "S" and protocol.probabilities
    if protocol.family == "S" and protocol.mode == "whole" and padded == (valid or size):
        # Family S interpolates once, from the head to the original image: the map is the head's output itself.
        values = [values[0].softmax(dim=1) if is_softmax else values[0]]
        window = padded = size = (values[0].shape[-2], values[0].shape[-1])
        valid, is_softmax = None, False
    return LogitMap(values, tops, lefts, window, padded, size, valid or size, is_softmax)


def _forward(model: nn.Module, crops: list[Tensor], padded: tuple[int, int], protocol: Evaluate) -> list[Tensor]:
    """Run windows of one size through the network, as many at once as the protocol and the device allow.

    Shapes:
        crops (B, 3, h, w) each -> logits (B, K, h', w') each
    """
    num_images = len(crops[0])
    batch = forward_batch(len(crops), num_images, padded, protocol, crops[0].device)
    single = [image for pair in crops for image in pair.unbind()]
    logits: list[Tensor] = []  # (K, h', w') each
    for i in range(0, len(single), batch):
        output = run_network(model, _pad(torch.stack(single[i : i + batch]), padded))
        logits.extend(output.float().unbind())
    return [torch.stack(logits[i : i + num_images]) for i in range(0, len(logits), num_images)]


def run_network(model: nn.Module, image: Tensor) -> Tensor:
    """Return `model(image)`; a network of `build.for_inference` replays what it recorded, on CUDA devices."""
    replays: Replays | None = getattr(model, "replays", None)
    return replays(model, image) if replays else model(image)


def forward_batch(
    num_windows: int, num_images: int, padded: tuple[int, int], protocol: Evaluate, device: torch.device
) -> int:
    """Return how many inputs of a size go through the network at once.

    Args:
        num_images: of each window: 2 where the mirrored image runs along.
    """
    batch = max(protocol.window_batch, num_images) if num_windows > 1 else num_images
    return max(min(batch, CPU_PIXELS // (padded[0] * padded[1])), 1) if device.type == "cpu" else batch


def whole(model: nn.Module, image: Tensor) -> Tensor:
    """Run the network on whole images.

    Shapes:
        (B, 3, H, W) -> logits (B, K, H, W), resized bilinearly from the head
    """
    return logit_map(model, image, Evaluate(mode="whole")).full()


def slide(
    model: nn.Module,
    image: Tensor,
    crop: tuple[int, int],
    stride: tuple[int, int],
    *,
    batch: int,
    pad_window: bool = False,
) -> Tensor:
    """Run the network on overlapping windows and average their logits (docs/protocol 3.2).

    Args:
        crop, stride: height and width of a window, and the steps between windows, pixels.
        batch: windows in one forward pass.
        pad_window: zero-pad windows of images smaller than the crop (UN-EPT); others run at their size.

    Shapes:
        (B, 3, H, W) -> logits (B, K, H, W)
    """
    protocol = Evaluate(mode="slide", crop=crop, stride=stride, pad_window=pad_window, window_batch=batch * len(image))
    return logit_map(model, image, protocol).full()


def unmirrored(values: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Mirror the values (K, n, W) of a mirrored image back, left and right classes exchanged."""
    order = list(range(len(values)))
    for one, other in pairs:
        order[one], order[other] = other, one
    return (values[order] if pairs else values).flip(-1)


def bands(
    maps: Sequence[LogitMap], size: tuple[int, int], protocol: Evaluate, *, is_ranking: bool = False
) -> Iterator[tuple[slice, Tensor]]:
    """Yield the maps at the size of the original image, summed over maps and mirrored images, a band at a time.

    Family M sums probabilities, family S whatever the maps hold. One map that is not mirrored needs no softmax where
    only the order of the classes matters (`is_ranking`).

    Shapes:
        rows, (K, n, W)
    """
    device = maps[0].values[0].device
    tables = {height: row_table(height, size[0], device) for height in {part.valid[0] for part in maps}}
    is_alone = len(maps) == 1 and not protocol.flip
    needs_softmax = protocol.family == "M" and not (is_ranking and is_alone)
    first = maps[0].values[0]
    height = band_height(first, max(size[1], *(part.size[1] for part in maps)))
    for start in range(0, size[0], height):
        stop = min(start + height, size[0])
        total: Tensor | None = None
        for part in maps:
            values = part.resized(tables[part.valid[0]], size[1], start, stop)
            values = values.softmax(dim=1) if needs_softmax else values
            band = values[0] if len(values) == 1 else values[0] + unmirrored(values[1], protocol.flip_pairs)
            total = band if total is None else total.add_(band)
        assert total is not None
        yield slice(start, stop), total


def band_height(values: Tensor, width: int) -> int:
    """Return how many rows of a map of a width are enlarged at a time; `values` (B, K, h, w) are those of a window."""
    is_cpu = values.device.type == "cpu"
    budget = BAND_BYTES["cpu"] * torch.get_num_threads() if is_cpu else BAND_BYTES["cuda"]
    return max(budget // (4 * values.shape[0] * values.shape[1] * width), 1)


class ViewSum:
    """Sum of the values of all views of an image.

    Maps stay at the head's resolution; only when they together outgrow one map of the original size are they added to
    a running sum. So memory does not grow with the number of views.
    """

    def __init__(self, size: tuple[int, int], protocol: Evaluate) -> None:
        self.size, self.protocol = size, protocol
        self.maps: list[LogitMap] = []
        self.total: Tensor | None = None

    def add(self, part: LogitMap) -> None:
        """Add a view."""
        self.maps.append(part)
        num_classes = part.values[0].shape[1]
        if sum(part.num_values for part in self.maps) > num_classes * self.size[0] * self.size[1]:
            self.fold()

    def fold(self) -> Tensor:
        """Return the running sum (K, H, W) with every map in it."""
        if self.total is None:
            first = self.maps[0].values[0]
            self.total = first.new_zeros((first.shape[1], *self.size))
        if self.maps:
            for rows, band in bands(self.maps, self.size, self.protocol):
                self.total[:, rows] += band
        self.maps = []
        return self.total

    def labels(self) -> Tensor:
        """Return the class of highest value, (H, W)."""
        if self.total is not None:
            return _argmax(self.fold())
        first = self.maps[0].values[0]
        label = torch.empty(self.size, dtype=_label_type(first.shape[1]), device=first.device)
        for rows, band in bands(self.maps, self.size, self.protocol, is_ranking=True):
            label[rows] = _argmax(band)
        return label


def _label_type(num_classes: int) -> torch.dtype:
    return torch.uint8 if num_classes <= 255 else torch.int16


def _argmax(values: Tensor) -> Tensor:
    return values.argmax(dim=0).to(_label_type(len(values)))


def _run(model: nn.Module, parts: Sequence[View], protocol: Evaluate, size: tuple[int, int]) -> ViewSum:
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    result = ViewSum(size, protocol)
    for view in parts:
        image, valid = network_input(view, protocol, device)
        result.add(logit_map(model, image, protocol, valid))
    return result


@torch.inference_mode()
def mean_over_views(model: nn.Module, parts: Sequence[View], protocol: Evaluate, size: tuple[int, int]) -> Tensor:
    """Return the probabilities of an image, averaged over its views (docs/protocol 3.1 and 3.3).

    For family S without `protocol.probabilities`, logits.

    Args:
        parts: what `views` gave.
        size: height and width of the original image.

    Shapes:
        (K, H, W) float32, on the model's device
    """
    total = _run(model, parts, protocol, size).fold()
    return total.div_(len(parts) * (1 + protocol.flip))


@torch.inference_mode()
def predict_labels(model: nn.Module, parts: Sequence[View], protocol: Evaluate, size: tuple[int, int]) -> Tensor:
    """Return the class of highest value at every pixel, without ever holding the values of all pixels.

    Shapes:
        (H, W) uint8 (int16 above 255 classes), on the model's device
    """
    return _run(model, parts, protocol, size).labels()
