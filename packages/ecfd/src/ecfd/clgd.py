"""Cross-level gating decoder (CLGD): the final context gates the finest level (ecfd/PAPER 3.6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecfd.layers import ConvBR, ConvBROfMaps
from ecfd.tokens import Size, size_of
from segcore.segmentor import resize

_LOW_CHANNELS = 32


class Gate(nn.Module):
    """Sigmoid of a 1x1 convolution of the concatenation of the finest level and the resized context: (B, 1, h, w).

    The context's part of the convolution comes before its resize: one channel is resized instead of all.
    """

    def __init__(self, low_channels: int, high_channels: int) -> None:
        super().__init__()
        self.low_channels = low_channels
        self.conv = nn.Conv2d(low_channels + high_channels, 1, 1)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        weights = self.conv.weight.split([self.low_channels, high.shape[1]], dim=1)
        logits = F.conv2d(low, weights[0], self.conv.bias) + resize(F.conv2d(high, weights[1]), size_of(low))
        return logits.sigmoid()

    def published_macs(self, output: Tensor) -> int:
        """Return the cost of the convolution of the concatenation."""
        return output.numel() * (self.conv.in_channels + 1)


class CLGD(nn.Module):
    """Gate the finest level by the context, and join the two.

    a = ConvBR(low), g = gate(a, high), out = ConvBR(ConvBR(cat(gamma * g * a, high))), with `high` resized to `low`.

    Args:
        channels: C of both inputs and of the output.

    Shapes:
        low (B, C, h_1, w_1), high (B, C, h, w) of any size -> (B, C, h_1, w_1)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.low = ConvBR(channels, _LOW_CHANNELS, 3)
        self.gate = Gate(_LOW_CHANNELS, channels)
        self.join = ConvBROfMaps(_LOW_CHANNELS + channels, channels, align_corners=False)
        self.out = ConvBR(channels, channels, 3)
        self.gamma = nn.Parameter(torch.ones(1))

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        size: Size = size_of(low)
        low = self.low(low)
        gated = self.gamma * self.gate(low, high) * low
        return self.out(self.join(gated, high, size=size))
