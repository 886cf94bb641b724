"""What stands between a backbone and the head: its levels as they are, concatenated, or normalized.

memorynet/PAPER 3.0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from memorynet.layers import Activation, conv_norm_act
from segcore.segmentor import resize

_REDUCTION_MOMENTUM = 1 - 0.9**4
"""The published reduction runs four times on one tensor, with four updates of its running statistics (P9)."""


class LastLevel(nn.Module):
    """Levels as they are: the last one for the head, the one before it for the auxiliary head."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = tuple(channels)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        return list(levels)


class ConcatenatedLevels(nn.Module):
    """All levels at the size of the first, concatenated (HRNet); optionally halved by a 3x3 convolution.

    Shapes:
        levels (B, C_i, h_i, w_i) -> [(B, sum C_i, h_0, w_0)], or [(B, sum C_i, ceil(h_0 / 2), ceil(w_0 / 2))]
    """

    def __init__(self, channels: Sequence[int], reduction: bool, activation: Activation) -> None:
        super().__init__()
        total = sum(channels)
        self.channels = (total,)
        self.reduction = conv_norm_act(total, total, 3, activation, stride=2) if reduction else nn.Identity()
        for module in self.reduction.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = _REDUCTION_MOMENTUM

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        size = (levels[0].shape[-2], levels[0].shape[-1])
        return [self.reduction(torch.cat([resize(level, size) for level in levels], dim=1))]


class NormalizedLevels(nn.Module):
    """Maps of transformer layers, each behind a layer norm over its channels; auxiliary heads see them normalized."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.norms = nn.ModuleList(LayerNorm2d(c, eps=1e-6) for c in channels)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        return [norm(level) for norm, level in zip(self.norms, levels, strict=True)]
