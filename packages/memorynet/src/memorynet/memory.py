"""The memory: prototypes of every class over the whole data set, how pixels read them, how they follow training.

Paper sections 3.1 and 3.2 (https://arxiv.org/abs/2108.11819), memorynet/PAPER 3.4 and 4.

The update's definition resizes the features to the label's size and averages them class by class. Resizing is linear,
so the same numbers come from the feature map as it is (memorynet/PAPER 7): with corner weights a_i of the four cells
around pixel p,

    f_p = sum_i a_i x_i,   <f_p, row> = sum_i a_i <x_i, row>,   sum_p u_p f_p = sum_cells (sum_p u_p a_i) x_cell

so that only numbers, never feature vectors, exist for each pixel. No loop over classes, no synchronization with the
host, and one graph for torch.compile.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memorynet.context import Attention
from memorynet.recipes import MemorySettings, Strategy
from segcore.distributed import all_reduce_max, all_reduce_sum, world
from segcore.layers.conv import ConvNormAct
from segcore.losses import at_least_float32

Reduce = Literal["average", "joint"]

_COSINE_FLOOR = 1e-8
"""Norms below it count as this long in a cosine (torch's default)."""
_ASSIGNMENT_FLOOR = 1e-12
"""The same where pixels choose their slot."""
_LEAST_WEIGHT = 1e-12
"""Of a pixel: where all pixels point exactly along their row, they weigh the same instead of 0 / 0."""


class Memory(nn.Module):
    """Rows (K, S, C), one vector per class and slot; a buffer that only training steps change, without gradient.

    All processes hold the same rows after every step, so DDP need not broadcast them. Empty rows are zero.

    Attributes:
        rows: (K, S, C) float32.
        num_batches_tracked: (K,) training steps in which each class was seen.
    """

    rows: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_classes: int, channels: int, settings: MemorySettings) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("rows", torch.zeros(num_classes, settings.slots, channels))
        self.register_buffer("num_batches_tracked", torch.zeros(num_classes, dtype=torch.int64))

    def updated(self, features: Tensor, label: Tensor, lr: float) -> Tensor:
        """Return this process's rows after a step, without storing them.

        Args:
            features: X, at the head's stride; resized to the label inside.
            lr: learning rate of this step.

        Shapes:
            features (B, C, h, w), label (B, H, W) int64 -> (K, S, C), detached
        """
        settings = self.settings
        reduce = "average" if settings.average == "ranks" else "joint"
        # a tensor, by a product that torch.compile can take into its graph: a number would be a new graph every step
        momentum = self.rows.new_ones(()) * settings.momentum_at(lr)
        return update_memory(self.rows, features, label, momentum, strategy=settings.strategy, reduce=reduce)

    @torch.no_grad()
    def store(self, updated: Tensor, label: Tensor) -> None:
        """Make the mean of all processes' updated rows the memory, and count the classes that were seen."""
        self.rows.copy_(average_over_ranks(updated) if self.settings.average == "ranks" else updated)
        self.num_batches_tracked += present_classes(label, len(self.rows))


class MemoryRead(nn.Module):
    """What the data set knows about each pixel: rows mixed by the first prediction, refined by attention.

    One attention per slot; with several, their outputs are fused by a 1x1 convolution.

    Shapes:
        pixels (B, C, h, w), logits (B, K, h, w), rows (K, S, C) -> (B, C, h, w)
    """

    def __init__(self, channels: int, settings: MemorySettings) -> None:
        super().__init__()
        self.settings = settings
        slots, width, activation = settings.slots, settings.attention_width, settings.activation
        self.attentions = nn.ModuleList(Attention(channels, width, activation) for _ in range(slots))
        self.fuse = None if slots == 1 else ConvNormAct(slots * channels, channels, 1, activation=activation)

    def weights(self, logits: Tensor) -> Tensor:
        """Return the weight of every class in every pixel, (B, K, h, w): its probability, or 1 for the highest."""
        if self.settings.read == "hard":
            one_hot = F.one_hot(logits.argmax(dim=1), logits.shape[1])
            return one_hot.permute(0, 3, 1, 2).to(logits.dtype)
        return at_least_float32(logits).softmax(dim=1)

    def forward(self, pixels: Tensor, logits: Tensor, rows: Tensor, updated: Tensor | None = None) -> Tensor:
        """Read the memory.

        Args:
            rows: the memory of the step before.
            updated: the memory after this step; with gradient "updated" it takes the place of `rows` in the gradient of
                the class probabilities, as published (memorynet/PAPER P3).
        """
        weights = self.weights(logits)
        after = None if self.settings.gradient == "clean" else updated
        slots = [
            cast(Attention, attention).over_mixture(pixels, weights, rows[:, j], None if after is None else after[:, j])
            for j, attention in enumerate(self.attentions)
        ]
        return slots[0] if self.fuse is None else self.fuse(torch.cat(slots, dim=1))


@torch.no_grad()
def update_memory(
    memory: Tensor,
    features: Tensor,
    label: Tensor,
    momentum: float | Tensor,
    *,
    strategy: Strategy = "cosine_similarity",
    reduce: Reduce = "average",
) -> Tensor:
    """Compute the memory after one training step; the arguments stay as they are (memorynet/PAPER 4).

    For each class that has pixels: its first slot that is exactly zero becomes their plain mean, and that is all;
    without such a slot, every pixel goes to the slot it is most similar to (the first one on ties), and each slot
    becomes (1 - momentum) slot + momentum g, where g averages the slot's pixels with the weights 1 - cosine(pixel,
    slot) (`cosine_similarity`: far pixels count more) or equally (`mean`). g is 0 for a slot without pixels. Classes
    without pixels keep their slots.

    Computed in float32 (float64 for a float64 memory), also inside autocast and for features of other types.

    Args:
        momentum: share of the new, 0-1; a tensor where it changes under torch.compile.
        strategy: `mean` needs one slot.
        reduce: what several processes share. `average`: nothing here; call `average_over_ranks` on the result, as
            published. `joint`: sums over all processes' pixels, so that each gets the memory which one process would
            get from the joint batch.

    Shapes (K classes, S slots; h x w of any ratio to H x W):
        memory (K, S, C), features (B, C, h, w), label (B, H, W) int64, 255 and all beyond K ignored -> (K, S, C)

    Raises:
        ValueError: for shapes that do not fit, an unknown strategy or reduction, or `mean` with several slots.
    """
    _check(memory, features, label, strategy, reduce)
    dtype = torch.promote_types(memory.dtype, torch.float32)
    with torch.autocast(features.device.type, enabled=False):
        rows = memory.to(dtype)
        is_empty = (rows == 0).all(dim=-1)  # (K, S)
        has_empty = is_empty.any(dim=1, keepdim=True)  # (K, 1)
        sums, totals = _weighted_sums(rows, is_empty, features.to(dtype), label, strategy)
        if reduce == "joint":
            *_, channels = memory.shape
            joint = all_reduce_sum(torch.cat((sums, totals), dim=-1))
            sums, totals = joint.split((channels, 1), dim=-1)
        is_seen = (totals > 0).any(dim=1)  # (K, 1)
        is_first_empty = is_empty & (is_empty.cumsum(dim=1) == 1)
        rate = torch.where(has_empty, is_first_empty.to(dtype), momentum) * is_seen  # (K, S)
        mean = sums / totals.clamp(min=torch.finfo(dtype).tiny)
        return torch.lerp(rows, mean, rate.unsqueeze(-1)).to(memory.dtype)


def average_over_ranks(memory: Tensor) -> Tensor:
    """Return the mean of all processes' memories: the published rule (memorynet/PAPER 4.2, P8).

    A class that r of R processes saw thus moves with r / R of the momentum; one that r of them saw for the first time
    starts as r / R of its mean.
    """
    return all_reduce_sum(memory.detach() / world().size)


def present_classes(label: Tensor, num_classes: int) -> Tensor:
    """Return which classes have a pixel in any process's batch, without a synchronization with the host.

    Shapes:
        label (B, H, W) int64, 255 and all beyond K ignored -> (K,) bool
    """
    index = torch.where((label >= 0) & (label < num_classes), label, num_classes).flatten()
    seen = label.new_zeros(num_classes + 1).scatter(0, index, 1)
    return all_reduce_max(seen)[:num_classes] > 0


def _check(memory: Tensor, features: Tensor, label: Tensor, strategy: Strategy, reduce: Reduce) -> None:
    if memory.dim() != 3 or features.dim() != 4 or label.dim() != 3:
        raise ValueError(
            "memory (K, S, C), features (B, C, h, w) and label (B, H, W) are expected, "
            f"got {tuple(memory.shape)}, {tuple(features.shape)} and {tuple(label.shape)}"
        )
    if memory.shape[2] != features.shape[1] or features.shape[0] != label.shape[0]:
        raise ValueError(
            f"memory {tuple(memory.shape)}, features {tuple(features.shape)} and label {tuple(label.shape)} "
            "disagree in channels or in images"
        )
    for value, name, choices in ((strategy, "strategy", Strategy), (reduce, "reduce", Reduce)):
        if value not in get_args(choices):
            raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, got {value!r}")
    if strategy == "mean" and memory.shape[1] > 1:
        raise ValueError(f"the strategy 'mean' needs one slot per class, the memory has {memory.shape[1]}")


def _weighted_sums(
    memory: Tensor, is_empty: Tensor, features: Tensor, label: Tensor, strategy: Strategy
) -> tuple[Tensor, Tensor]:
    """Sum the resized features of every slot's pixels with their weights.

    Shapes:
        memory (K, S, C), is_empty (K, S), features (B, C, h, w), label (B, H, W) -> (K, S, C), weights (K, S, 1)
    """
    num_classes, num_slots, _ = memory.shape
    batch, _, height, width = features.shape
    grid = _Grid.of(features, label)
    is_labeled = (label >= 0) & (label < num_classes)
    classes = torch.where(is_labeled, label, 0)
    images = torch.arange(batch, device=label.device).view(-1, 1, 1)
    # place of the pixel's upper left cell in a map (B, K, S, h, w), at slot 0
    index = ((images * num_classes + classes) * (num_slots * height * width) + grid.cell).flatten()
    if strategy == "mean":
        weight = is_labeled.to(features.dtype)
    else:
        slot, cosine = _similarity(memory, is_empty, features, classes, index, grid)
        index = index + slot * (height * width)
        weight = (1 - cosine).clamp(min=_LEAST_WEIGHT) * is_labeled
    spread = grid.spread(weight, index, batch * num_classes * num_slots)
    spread = spread.view(batch, num_classes * num_slots, height * width)
    sums = (spread @ features.flatten(2).transpose(1, 2)).sum(dim=0)  # (K S, C)
    return sums.view_as(memory), spread.sum(dim=(0, 2)).view(num_classes, num_slots, 1)


def _similarity(
    memory: Tensor, is_empty: Tensor, features: Tensor, classes: Tensor, index: Tensor, grid: _Grid
) -> tuple[Tensor, Tensor]:
    """Choose each pixel's slot and compute its cosine with it; classes with an empty slot get that one, and 0.

    Shapes:
        classes (B, H, W), index (B H W) -> slot (B H W), cosine (B, H, W)
    """
    num_slots, cells = memory.shape[1], features.shape[2] * features.shape[3]
    norms = torch.linalg.vector_norm(memory, dim=-1)  # (K, S)
    units = (memory / norms.clamp(min=_ASSIGNMENT_FLOOR).unsqueeze(-1)).flatten(0, 1)  # (K S, C)
    products = torch.matmul(units, features.flatten(2))  # (B, K S, h w)
    best, slot = grid.read(products, index), torch.zeros_like(index)
    for number in range(1, num_slots):
        other = grid.read(products, index + number * cells)
        is_better = other > best
        best, slot = torch.where(is_better, other, best), slot.masked_fill(is_better.flatten(), number)
    has_empty = is_empty.any(dim=1, keepdim=True)  # (K, 1)
    if num_slots > 1:
        first_empty = torch.where(has_empty.squeeze(1), is_empty.int().argmax(dim=1), -1)
        forced = first_empty[classes.flatten()]
        slot = torch.where(forced >= 0, forced, slot)
    # 0 makes a plain mean of the pixels of a class with an empty slot
    factor = torch.where(has_empty, 0, norms.clamp(min=_ASSIGNMENT_FLOOR) / norms.clamp(min=_COSINE_FLOOR))
    factor = factor.flatten().index_select(0, classes.flatten() * num_slots + slot).view_as(best)
    lengths = grid.squared_norms(features).clamp_(min=0).sqrt_().clamp_(min=_COSINE_FLOOR)
    return slot, factor * best / lengths


class _Axis(NamedTuple):
    """Bilinear resizing (align_corners=False) along one axis.

    Attributes:
        cell: the cell before each pixel, (P,) int64.
        step: weight of the cell after it, (P,); 0 at the last cell.
        size: number of cells.
    """

    cell: Tensor
    step: Tensor
    size: int

    @classmethod
    def of(cls, size: int, pixels: int, like: Tensor) -> _Axis:
        places = torch.arange(pixels, device=like.device, dtype=like.dtype)
        position = ((places + 0.5) * (size / pixels) - 0.5).clamp(min=0)
        cell = position.floor().clamp(max=size - 1)
        return cls(cell.long(), torch.where(cell < size - 1, position - cell, 0), size)

    def squares(self) -> Tensor:
        """Return the weights of [|x_i|^2, <x_i, x_i+1>] in a pixel's squared norm: (P, 2 cells)."""
        cells, own = torch.arange(self.size, device=self.cell.device), self.cell.unsqueeze(1)
        step = self.step.unsqueeze(1)
        squares = (1 - step) ** 2 * (cells == own) + step**2 * (cells == own + 1)
        return torch.cat((squares, 2 * step * (1 - step) * (cells == own)), dim=1)


class _Grid(NamedTuple):
    """Bilinear resizing of a feature map (h, w) to a label (H, W) that numbers, not feature vectors, go through.

    Attributes:
        cell: number of the cell at the upper left of each pixel, (H, W) int64.
    """

    rows: _Axis
    columns: _Axis
    cell: Tensor

    @classmethod
    def of(cls, features: Tensor, label: Tensor) -> _Grid:
        rows = _Axis.of(features.shape[2], label.shape[1], features)
        columns = _Axis.of(features.shape[3], label.shape[2], features)
        return cls(rows, columns, rows.cell.unsqueeze(1) * columns.size + columns.cell)

    def read(self, maps: Tensor, index: Tensor) -> Tensor:
        """Read maps at pixels.

        Shapes:
            maps (any, h w), index (B H W): the upper left cells in the flattened maps -> (B, H, W)
        """
        width, padded = self.columns.size, F.pad(maps.flatten(), (0, self.columns.size + 1))

        def corner(offset: int) -> Tensor:
            return padded[offset:].index_select(0, index).view(-1, *self.cell.shape)

        upper = torch.lerp(corner(0), corner(1), self.columns.step)
        lower = torch.lerp(corner(width), corner(width + 1), self.columns.step)
        return torch.lerp(upper, lower, self.rows.step.unsqueeze(1))

    def spread(self, values: Tensor, index: Tensor, num_maps: int) -> Tensor:
        """Add the values of pixels to the cells around them: the transpose of `read`.

        Shapes:
            values (B, H, W), index (B H W) -> (num_maps, h w)
        """
        width, total = self.columns.size, num_maps * self.rows.size * self.columns.size
        maps = values.new_zeros(total + width + 1)
        lower = values * self.rows.step.unsqueeze(1)
        for offset, part in ((0, values - lower), (width, lower)):
            right = part * self.columns.step
            maps[offset:].scatter_add_(0, index, (part - right).flatten())
            maps[offset + 1 :].scatter_add_(0, index, right.flatten())
        return maps[:total].view(num_maps, -1)

    def squared_norms(self, features: Tensor) -> Tensor:
        """Compute the squared norms of the resized features from the inner products of neighboring cells.

        Shapes:
            features (B, C, h, w) -> (B, H, W)
        """
        upper, lower = features[:, :, :-1], features[:, :, 1:]
        own = features.square().sum(dim=1)
        right = (features[..., :-1] * features[..., 1:]).sum(dim=1)
        down = (upper * lower).sum(dim=1)
        diagonal = (upper[..., :-1] * lower[..., 1:]).sum(dim=1) + (upper[..., 1:] * lower[..., :-1]).sum(dim=1)
        first = torch.cat((own, F.pad(right, (0, 1))), dim=2)  # (B, h, 2 w)
        second = torch.cat((F.pad(down, (0, 0, 0, 1)), F.pad(diagonal / 2, (0, 1, 0, 1))), dim=2)
        products = torch.cat((first, second), dim=1)  # (B, 2 h, 2 w)
        return self.rows.squares() @ products @ self.columns.squares().T
