"""The memory: prototypes of every class over the whole data set, how they follow training, and how pixels read them.

Paper sections 3.1 and 3.2 (https://arxiv.org/abs/2108.11819), memorynet/PAPER 3.4 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memorynet.attention import Attention
from memorynet.layers import Activation, conv_norm_act
from memorynet.ops import average_over_ranks, present_classes, update_memory
from segcore.losses import at_least_float32


@dataclass(frozen=True, kw_only=True)
class MemorySettings:
    """How a memory learns and is read; the fields are those of `MemoryNetModel`, explained there."""

    slots: int = 1
    read: Literal["soft", "hard"] = "soft"
    strategy: Literal["cosine_similarity", "mean"] = "cosine_similarity"
    momentum: float = 0.9
    momentum_lr: float = 0.0
    average: Literal["ranks", "joint"] = "ranks"
    gradient: Literal["updated", "clean"] = "updated"

    def momentum_at(self, lr: float) -> float:
        """Return the share of a row that a step at this learning rate replaces (of the schedule, before any factor)."""
        return self.momentum / self.momentum_lr * lr if self.momentum_lr > 0 else self.momentum


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

    def __init__(self, channels: int, width: int, settings: MemorySettings, activation: Activation) -> None:
        super().__init__()
        self.is_hard = settings.read == "hard"
        self.is_clean = settings.gradient == "clean"
        self.attentions = nn.ModuleList(Attention(channels, width, activation) for _ in range(settings.slots))
        is_single = settings.slots == 1
        self.fuse = None if is_single else conv_norm_act(settings.slots * channels, channels, 1, activation)

    def weights(self, logits: Tensor) -> Tensor:
        """Return the weight of every class in every pixel, (B, K, h, w): its probability, or 1 for the highest."""
        if self.is_hard:
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
        after = None if self.is_clean else updated
        slots = [
            cast(Attention, attention).over_mixture(pixels, weights, rows[:, j], None if after is None else after[:, j])
            for j, attention in enumerate(self.attentions)
        ]
        return slots[0] if self.fuse is None else self.fuse(torch.cat(slots, dim=1))
