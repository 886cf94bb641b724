"""What surrounds the memory: levels (memorynet/PAPER 3.0), attention (3.3), context within the image (3.1).

The block of all of it is a convolution without bias, batch norm and activation (cbr there, `ConvNormAct` here).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from memorynet.recipes import Activation, MemoryNetModel
from segcore.layers.conv import ConvNormAct
from segcore.layers.fcn_head import FCNHead
from segcore.layers.pooling import adaptive_mean
from segcore.segmentor import resize

POOL_SIZES = (1, 2, 3, 6)
"""Cells per side of the maps of PSPNet."""
_TRANSFORMER_UPSAMPLE = 4
"""Nearest, after each of the two convolutions of a transformer's auxiliary heads."""
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
        self.reduction = ConvNormAct(total, total, 3, activation=activation, stride=2) if reduction else nn.Identity()
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


def create_levels(
    channels: Sequence[int], options: MemoryNetModel
) -> LastLevel | ConcatenatedLevels | NormalizedLevels:
    """Return what stands between a backbone of these channels and the head."""
    if options.levels == "concatenated":
        return ConcatenatedLevels(channels, options.reduction, options.activation)
    return NormalizedLevels(channels) if options.levels == "layers" else LastLevel(channels)


class Attention(nn.Module):
    """One head of attention between two maps; nothing is added to the query.

    Args:
        channels: of the query map, the key map and the output.
        width: of queries, keys and values.
    Shapes:
        query (B, C, h, w), key map (B, C, h', w') -> (B, C, h, w)
    """

    def __init__(self, channels: int, width: int, activation: Activation) -> None:
        super().__init__()
        self.query, self.key = (
            nn.Sequential(
                ConvNormAct(channels, width, 1, activation=activation),
                ConvNormAct(width, width, 1, activation=activation),
            )
            for _ in range(2)
        )
        self.value = ConvNormAct(channels, width, 1, activation=activation)
        self.out = ConvNormAct(width, channels, 1, activation=activation)

    def forward(self, query: Tensor, key_map: Tensor) -> Tensor:
        return self._attend(query, self.key(key_map), self.value(key_map))

    def over_mixture(self, query: Tensor, weights: Tensor, rows: Tensor, updated: Tensor | None = None) -> Tensor:
        """Attend to the map Z = weights @ rows without building it.

        The first convolutions of key and value are linear, so the K rows are projected, then mixed: K instead of h * w
        products with the convolutions' matrices.

        Args:
            weights: of each row in every pixel; they sum to 1.
            rows: memory rows of one slot.
            updated: the rows after this step's update. The gradient of `weights` is then multiplied by them, although
                the value is that of `rows` (memorynet/PAPER P3); without them it is the plain one.

        Shapes:
            query (B, C, h, w), weights (B, K, h, w), rows (K, C) -> (B, C, h, w)
        """
        first = cast(ConvNormAct, self.key[0])
        table = self._projected(first, rows)  # (K, 2 width)
        if updated is None:
            mixed = _mix(weights, table)
        else:
            table_updated = self._projected(first, updated)
            mixed = _mix(weights, table_updated) + _mix(weights.detach(), table - table_updated)
        key, value = mixed.chunk(2, dim=1)  # (B, width, h, w) each
        second = cast(ConvNormAct, self.key[1])
        return self._attend(query, second(_norm_act(first, key)), _norm_act(self.value, value))

    def _projected(self, first: ConvNormAct, rows: Tensor) -> Tensor:
        """Return the rows behind the convolutions of key and value; their biases exist once norms are folded."""
        convs = (cast(nn.Conv2d, first.conv), cast(nn.Conv2d, self.value.conv))
        parts = [F.linear(rows, conv.weight.flatten(1), conv.bias) for conv in convs]
        return torch.cat(parts, dim=1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        height, width = query.shape[-2:]
        maps = (self.query(query), key, value)
        # contiguous: torch's kernels that never hold the (N, N) weights want the channels side by side
        q, k, v = (rearrange(x, "b c h w -> b 1 (h w) c").contiguous() for x in maps)
        context = F.scaled_dot_product_attention(q, k, v)  # scale width ** -0.5
        return self.out(rearrange(context, "b 1 (h w) c -> b c h w", h=height, w=width))


def _mix(weights: Tensor, table: Tensor) -> Tensor:
    """(B, K, h, w), (K, D) -> (B, D, h, w), as a 1x1 convolution: it keeps the memory format."""
    return F.conv2d(weights.to(table.dtype), table.t()[:, :, None, None])


def _norm_act(block: ConvNormAct, x: Tensor) -> Tensor:
    """Apply what follows the convolution in a block."""
    return block.activate(block.bn(x))


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling (ASPP) of DeepLabV3, https://arxiv.org/abs/1706.05587.

    Dilation 1 stands for a 1x1 convolution. The global branch comes last in the concatenation.

    Shapes:
        (B, C_in, h, w) -> (B, width, h, w)
    """

    def __init__(self, in_channels: int, width: int, dilations: Sequence[int], activation: Activation) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            ConvNormAct(in_channels, width, 1 if d == 1 else 3, activation=activation, dilation=d) for d in dilations
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.global_branch = ConvNormAct(in_channels, width, 1, activation=activation)
        self.bottleneck = ConvNormAct((len(dilations) + 1) * width, width, 3, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        maps = [branch(x) for branch in self.branches]
        # bilinear from 1x1 is constant; written out, since with an expanded map cat gives up channels_last
        constant = self.global_branch(self.pool(x))
        maps.append(torch.empty_like(maps[0]).copy_(constant.expand_as(maps[0])))  # ONNX copies do not broadcast
        return self.bottleneck(torch.cat(maps, dim=1))


class PyramidPooling(nn.Module):
    """Pyramid pooling (PPM) of PSPNet, https://arxiv.org/abs/1612.01105; the input comes first in the concatenation.

    Shapes:
        (B, C_in, h, w) -> (B, width, h, w)
    """

    def __init__(self, in_channels: int, width: int, activation: Activation) -> None:
        super().__init__()
        self.branches = nn.ModuleList(ConvNormAct(in_channels, width, 1, activation=activation) for _ in POOL_SIZES)
        self.bottleneck = ConvNormAct(in_channels + len(POOL_SIZES) * width, width, 3, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[-2], x.shape[-1])
        pooled = [
            resize(branch(adaptive_mean(x, (side, side))), size)
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
        self.bottleneck = ConvNormAct(2 * channels, channels, 3, activation=activation)

    def forward(self, pixels: Tensor, coarse: Tensor) -> Tensor:
        attended = self.attention(pixels, self.regions(pixels, coarse))
        return self.bottleneck(torch.cat([attended, pixels], dim=1))

    @staticmethod
    def regions(pixels: Tensor, coarse: Tensor) -> Tensor:
        """Return the mean feature of each class, weighted by the softmax over SPACE of its logits, (B, C, K, 1)."""
        weights = coarse.flatten(2).softmax(dim=-1).to(pixels.dtype)  # (B, K, N)
        return (pixels.flatten(2) @ weights.transpose(1, 2)).unsqueeze(-1)


def create_context(in_channels: int, options: MemoryNetModel) -> nn.Module | None:
    """Return the context within the image, on a map of so many channels; None leaves it out (FCN)."""
    if options.context == "aspp":
        return AtrousPyramid(in_channels, options.width, options.dilations, options.activation)
    if options.context == "ppm":
        return PyramidPooling(in_channels, options.width, options.activation)
    if options.context == "ocr":
        return ObjectContext(options.width, options.attention_width, options.activation)
    return None


def create_auxiliary(channels: Sequence[int], num_classes: int, options: MemoryNetModel) -> list[FCNHead]:
    """Return a head on the level before the last, or on all but the last of a transformer's."""
    if not options.auxiliary:
        return []
    is_transformer = options.levels == "layers"
    indices = range(len(channels) - 1) if is_transformer else [max(len(channels) - 2, 0)]
    return [
        FCNHead(
            channels[index],
            options.width,
            num_classes,
            index=index,
            num_convs=2 if is_transformer else 1,
            dropout=options.dropout,
            upsample=_TRANSFORMER_UPSAMPLE if is_transformer else 1,
            activation=options.activation,
        )
        for index in indices
    ]
