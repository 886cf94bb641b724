"""Context within the image: DeepLabV3, PSPNet and OCRNet modules, memorynet/PAPER 3.1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memorynet.attention import Attention
from memorynet.layers import Activation, conv_norm_act
from segcore.segmentor import resize

POOL_SIZES = (1, 2, 3, 6)


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling (ASPP) of DeepLabV3, https://arxiv.org/abs/1706.05587.

    Dilation 1 stands for a 1x1 convolution. The global branch comes last in the concatenation.

    Shapes:
        (B, C_in, h, w) -> (B, width, h, w)
    """

    def __init__(self, in_channels: int, width: int, dilations: Sequence[int], activation: Activation) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            conv_norm_act(in_channels, width, 1 if d == 1 else 3, activation, dilation=d) for d in dilations
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.global_branch = conv_norm_act(in_channels, width, 1, activation)
        self.bottleneck = conv_norm_act((len(dilations) + 1) * width, width, 3, activation)

    def forward(self, x: Tensor) -> Tensor:
        maps = [branch(x) for branch in self.branches]
        maps.append(self.global_branch(self.pool(x)).expand_as(maps[0]))  # bilinear from 1x1 is constant
        return self.bottleneck(torch.cat(maps, dim=1))


class PyramidPooling(nn.Module):
    """Pyramid pooling (PPM) of PSPNet, https://arxiv.org/abs/1612.01105; the input comes first in the concatenation.

    Shapes:
        (B, C_in, h, w) -> (B, width, h, w)
    """

    def __init__(self, in_channels: int, width: int, activation: Activation) -> None:
        super().__init__()
        self.branches = nn.ModuleList(conv_norm_act(in_channels, width, 1, activation) for _ in POOL_SIZES)
        self.bottleneck = conv_norm_act(in_channels + len(POOL_SIZES) * width, width, 3, activation)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[-2], x.shape[-1])
        pooled = [
            resize(branch(F.adaptive_avg_pool2d(x, side)), size)
            for branch, side in zip(self.branches, POOL_SIZES, strict=True)
        ]
        return self.bottleneck(torch.cat([x, *pooled], dim=1))


class ObjectContext(nn.Module):
    """Object-context block of OCRNet, https://arxiv.org/abs/1909.11065: pixels attend to one feature per class region.

    The paper names OCRNet, but nothing that was released combines it with the memory: what it works on (the pixel
    features X and the auxiliary logits) is our choice (memorynet/PAPER 3.1).

    Shapes:
        pixels (B, C, h, w), coarse logits (B, K, h, w) -> (B, C, h, w)
    """

    def __init__(self, channels: int, attention_width: int, activation: Activation) -> None:
        super().__init__()
        self.attention = Attention(channels, attention_width, activation)
        self.bottleneck = conv_norm_act(2 * channels, channels, 3, activation)

    def forward(self, pixels: Tensor, coarse: Tensor) -> Tensor:
        attended = self.attention(pixels, self.regions(pixels, coarse))
        return self.bottleneck(torch.cat([attended, pixels], dim=1))

    @staticmethod
    def regions(pixels: Tensor, coarse: Tensor) -> Tensor:
        """Return the mean feature of each class, weighted by the softmax over SPACE of its logits, (B, C, K, 1)."""
        weights = coarse.flatten(2).softmax(dim=-1).to(pixels.dtype)  # (B, K, N)
        return (pixels.flatten(2) @ weights.transpose(1, 2)).unsqueeze(-1)
