"""MemoryNet's head, in the order of the paper: first prediction -> memory -> context within the image -> final one.

https://arxiv.org/abs/2108.11819, memorynet/PAPER 3. Published tensor names are in `convert.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memorynet.attention import Attention
from memorynet.context import ObjectContext
from memorynet.layers import Activation, conv_norm_act
from memorynet.memory import Memory, MemoryRead, MemorySettings
from segcore.losses import at_least_float32


@runtime_checkable
class PixelHead(Protocol):
    """A head that a memory can be put on: it exposes pixel features and a first prediction of the same size.

    `segcore.layers.fcn_head.FCNHead` is one; so is any module with these two.

    Attributes:
        channels: of the pixel features.
    """

    channels: int

    def pixels(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Feature levels -> pixel features (B, channels, h, w) and class logits (B, K, h, w)."""
        ...


class ClassifierHead(nn.Module):
    """1x1 convolution, channel dropout, 1x1 classifier: both predictions of MemoryNet (memorynet/PAPER 3.2, 3.6).

    Shapes:
        (B, C, h, w) -> (B, K, h, w)
    """

    def __init__(self, channels: int, num_classes: int, dropout: float, activation: Activation) -> None:
        super().__init__()
        self.transform = conv_norm_act(channels, channels, 1, activation)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.transform(x)))


class FirstHead(nn.Module):
    """Pixel features X and the first prediction L1 (memorynet/PAPER 3.2), from the last level."""

    def __init__(
        self, in_channels: int, channels: int, num_classes: int, dropout: float, activation: Activation
    ) -> None:
        super().__init__()
        self.channels = channels
        self.bottleneck = conv_norm_act(in_channels, channels, 3, activation)
        self.classify = ClassifierHead(channels, num_classes, dropout, activation)

    def pixels(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return X (B, C, h, w) and L1 (B, K, h, w)."""
        pixels = self.bottleneck(features[-1])
        return pixels, self.classify(pixels)


class MemoryHead(nn.Module):
    """A memory on top of any head that exposes pixel features and a first prediction.

    Args:
        first: gives X and L1.
        num_classes: K.
        settings: of the memory.
        context: last level (B, C_in, h, w) -> (B, C, h, w), or `ObjectContext`; None leaves it out (FCN).
        attention_width: channels of queries, keys and values.
        dropout: probability that a channel is dropped before the final classifier.
    Shapes:
        feature levels -> (B, K, h, w) at the size of X
    """

    def __init__(
        self,
        first: PixelHead,
        num_classes: int,
        *,
        settings: MemorySettings | None = None,
        context: nn.Module | None = None,
        attention_width: int = 256,
        dropout: float = 0.1,
        activation: Activation = "ReLU",
    ) -> None:
        super().__init__()
        assert isinstance(first, nn.Module)
        settings = settings or MemorySettings()
        channels = first.channels
        self.first = first
        self.memory = Memory(num_classes, channels, settings)
        self.read = MemoryRead(channels, attention_width, settings, activation)
        self.bottleneck = conv_norm_act(2 * channels, channels, 3, activation)
        self.context = context
        if context is not None:
            self.context_attention = Attention(channels, attention_width, activation)
            self.context_bottleneck = conv_norm_act(2 * channels, channels, 3, activation)
        self.classify = ClassifierHead(channels, num_classes, dropout, activation)

    def forward(self, features: Sequence[Tensor], coarse: Tensor | None = None) -> Tensor:
        """Return the final logits; the memory is only read.

        Args:
            coarse: class logits (B, K, h, w) for `ObjectContext`; L1 where there are none.
        """
        pixels, first = self.first.pixels(features)
        return self.second(features, pixels, first, coarse=coarse)

    def second(
        self,
        features: Sequence[Tensor],
        pixels: Tensor,
        first: Tensor,
        *,
        coarse: Tensor | None = None,
        updated: Tensor | None = None,
    ) -> Tensor:
        """Return the final logits from what the first head gave (memorynet/PAPER 3.4 to 3.6).

        Args:
            updated: the memory after this training step, see `MemoryRead.forward`.

        Shapes:
            pixels (B, C, h, w), first and coarse (B, K, h, w), updated (K, S, C) -> (B, K, h, w)
        """
        # a copy: training overwrites the rows before the backward pass, which may still need what was read
        rows = self.memory.rows if updated is None else self.memory.rows.clone()
        beyond = self.read(pixels, first, rows, updated)
        fused = self.bottleneck(torch.cat([pixels, beyond], dim=1))
        if self.context is not None:
            if isinstance(self.context, ObjectContext):
                context = self.context(pixels, first if coarse is None else coarse)
            else:
                context = self.context(features[-1])
            # the published order: context first
            fused = self.context_bottleneck(torch.cat([self.context_attention(pixels, context), fused], dim=1))
        return self.classify(fused)

    def consistency(self, rows: Tensor) -> Tensor:
        """Return the loss of the final classifier on the memory rows themselves, empty ones included.

        In training mode the batch statistics are those of the rows, and the running statistics of the classifier's
        norm take a second step: published so (memorynet/PAPER P4).

        Shapes:
            (K, S, C) -> scalar
        """
        num_classes, slots, channels = rows.shape
        logits = self.classify(rows.reshape(num_classes * slots, channels, 1, 1)).flatten(1)  # (K S, K)
        classes = torch.arange(num_classes, device=rows.device).repeat_interleave(slots)
        return F.cross_entropy(at_least_float32(logits), classes)
