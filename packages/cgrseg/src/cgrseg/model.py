"""CGRSeg in the order of the paper: https://arxiv.org/abs/2405.06228, cgrseg/PAPER 3.

RectangularAttention (RCA) -> RectangularModule (RCM) -> pyramid context -> top-down fusion -> prototypes -> DPG -> head
-> network and its variants. Published tensor names are in `names.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgrseg.recipes import CGRSEG_B, CGRSEG_L, CGRSEG_S0, CGRSEG_T, CGRSegModel
from segcore.backbones import backbone_of
from segcore.layers.conv import ConvNormAct
from segcore.layers.conv_gelu import absorb_gelu
from segcore.layers.fcn_head import pixel_classifier
from segcore.layers.fuse import fold_into_next, fold_into_previous
from segcore.layers.pooling import adaptive_mean
from segcore.layers.precision import full_precision
from segcore.losses import SegmentationLoss
from segcore.recipe import Loss, Recipe
from segcore.segmentor import EncoderDecoder, resize, size_of

_LEVELS = 3
_MLP_RATIO = 2


class BandConv(nn.Conv2d):
    """Depthwise 1 x k convolution of (row mean + column mean), without building that sum.

    With r_i the mean of row i and c_j that of column j, zero padding gives
    sum_t w_t (r_i + c_{j+t}) = r_i * (sum of the taps inside the image at j) + (w * c)_j:
    two convolutions of one row each instead of one of the whole map, equal up to rounding.
    """

    def __init__(self, channels: int, band: int) -> None:
        super().__init__(channels, channels, (1, band), padding=(0, band // 2), groups=channels)

    def forward(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Row means (B, C, h, 1) and column means (B, C, 1, w) -> (B, C, h, w)."""
        both = torch.cat([columns, torch.ones_like(columns[:1])])  # the last entry gives the sum of the taps inside
        bands = F.conv2d(both, self.weight, None, padding=self.padding, groups=self.groups)
        assert self.bias is not None
        return torch.addcmul(bands[:-1] + self.bias[:, None, None], rows, bands[-1:])

    def published_macs(self, output: Tensor) -> int:
        """Return the cost of the published form: k taps and a bias per output value."""
        return output.numel() * (self.kernel_size[1] + 1)


class RectangularAttention(nn.Module):
    """Rectangular self-calibration attention (RCA, paper section 3.2): a gate from axis means on local features.

    Args:
        channels: C.
        band: k, length of the band convolutions.
    Shapes:
        (B, C, h, w) -> (B, C, h, w)
    """

    def __init__(self, channels: int, band: int) -> None:
        super().__init__()
        self.local = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.row_mean = nn.AdaptiveAvgPool2d((None, 1))
        self.column_mean = nn.AdaptiveAvgPool2d((1, None))
        self.horizontal = BandConv(channels, band)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)
        self.vertical = nn.Conv2d(channels, channels, (band, 1), padding=(band // 2, 0), groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():  # pooling would get the windows of one size
            means = x.mean(dim=3, keepdim=True), x.mean(dim=2, keepdim=True)
        else:
            means = self.row_mean(x), self.column_mean(x)
        gate = self.horizontal(*means)
        gate = self.vertical(self.act(self.norm(gate))).sigmoid()
        return gate * self.local(x)

    def fold_norms(self) -> None:
        """Fold the norm into the band convolution before it."""
        self.norm = fold_into_previous(self.horizontal, self.norm)


class RectangularModule(nn.Module):
    """Rectangular self-calibration module (RCM, paper section 3.2): RCA, norm and MLP on a scaled residual branch.

    Its norms are plain in the published models where all others are synchronized (cgrseg/PAPER 7.1, row 8).

    Shapes:
        (B, C, h, w) -> (B, C, h, w)
    """

    def __init__(self, channels: int, options: CGRSegModel) -> None:
        super().__init__()
        self.synchronized_norm = options.sync_all_norms
        self.attention = RectangularAttention(channels, options.band)
        self.norm = nn.BatchNorm2d(channels)
        self.fc1 = nn.Conv2d(channels, _MLP_RATIO * channels, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(_MLP_RATIO * channels, channels, 1)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        branch = self.fc2(self.act(self.fc1(self.norm(self.attention(x)))))
        return x + self.gamma[:, None, None] * branch

    def fold_norms(self) -> None:
        """Fold the norm into the 1x1 convolution after it, and the activation after that."""
        self.norm = fold_into_next(self.norm, self.fc1)
        self.act = absorb_gelu(self.fc1, self.act)


class PyramidContext(nn.Module):
    """Context of all levels at half the coarsest resolution (paper section 3.1).

    Shapes:
        levels (B, C_i, h_i, w_i), fine to coarse -> context of each (B, C_i, ceil(h_last / 2), ceil(w_last / 2))
    """

    def __init__(self, channels: Sequence[int], options: CGRSegModel) -> None:
        super().__init__()
        self.channels = tuple(channels)
        modules = (RectangularModule(sum(channels), options) for _ in range(options.pyramid_modules))
        self.blocks = nn.Sequential(*modules)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
        height, width = size_of(levels[-1])
        size = (-(-height // 2), -(-width // 2))
        # adaptive, not stride-2 pooling: with an odd number of rows (480x480: 15) the windows overlap
        pooled = torch.cat([adaptive_mean(level, size) for level in levels], dim=1)
        return self.blocks(pooled).split(self.channels, dim=1)


class LevelConv(nn.Conv2d):
    """1x1 convolution of a deeper result, brought to the size of the next finer level.

    The published order is upsampling first; the two commute up to rounding, because the bilinear weights sum to 1, and
    this order costs a quarter.
    """

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, C, h, w) -> (B, C', *size)."""
        return resize(super().forward(x), size)

    def published_macs(self, output: Tensor) -> int:
        """Return the cost of the published order: input channels and a bias per output value."""
        return output.numel() * (self.in_channels + 1)


class Fuse(nn.Module):
    """Local features of a level times a gate from its slice of the pyramid context.

    Shapes:
        local (B, C, h, w), context (B, C, h', w') -> (B, E, h, w)
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.local = ConvNormAct(channels, width, 1, activation="none")
        self.gate = ConvNormAct(channels, width, 1, activation="none")
        self.act = nn.ReLU6()

    def forward(self, local: Tensor, context: Tensor) -> Tensor:
        # hard sigmoid before the upsampling: the order is part of the published model
        gate = self.act(self.gate(context) + 3.0) / 6.0
        return self.local(local) * resize(gate, size_of(local))


class ClassPrototypes(nn.Module):
    """One feature vector per class: pixel features weighted by the softmax over PIXELS of the first logits.

    Shapes:
        features (B, E, h, w), logits (B, K, h, w) -> (B, E, K, 1), float32 under autocast too
    """

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        with full_precision(features.device.type):
            weights = logits.float().flatten(2).softmax(dim=-1)  # (B, K, N)
            prototypes = features.float().flatten(2) @ weights.transpose(1, 2)  # (B, E, K)
        return prototypes[..., None]


class PrototypeGuidance(nn.Module):
    """Dynamic prototype guided (DPG) head (paper section 3.3): channels of the features gated by the prototypes.

    Shapes:
        features (B, E, h, w), prototypes (B, E, K, 1) -> (B, E, h, w)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.class_weight = nn.Conv2d(width, 1, 1)
        self.reduce = nn.Conv2d(width, width, 1)
        self.norm = nn.LayerNorm([width, 1, 1])
        self.act = nn.ReLU(inplace=True)
        self.expand = nn.Conv2d(width, width, 1)

    def forward(self, features: Tensor, prototypes: Tensor) -> Tensor:
        dtype = self.reduce.weight.dtype  # float32 but in a network made half; under autocast, too
        weights = self.class_weight(prototypes.to(dtype)).float().softmax(dim=2)  # (B, 1, K, 1)
        pooled = (weights * prototypes).sum(dim=2, keepdim=True).to(dtype)  # (B, E, 1, 1)
        gate = self.expand(self.act(self.norm(self.reduce(pooled)))).sigmoid()
        return features * gate.to(features.dtype)


class CGRSegHead(nn.Module):
    """The decode head: the last three feature levels -> class logits at the stride of the first of them.

    Args:
        channels: of the three levels, fine to coarse.
        num_classes: K.
        options: width, depth and band of the head.
    Shapes:
        list of at least three feature maps, the last three (B, C_i, h_i, w_i) -> (B, K, h_0, w_0)
    """

    def __init__(self, channels: Sequence[int], num_classes: int, options: CGRSegModel) -> None:
        super().__init__()
        assert len(channels) == _LEVELS
        width = options.width
        self.pyramid = PyramidContext(channels, options)
        self.levels = nn.ModuleList(RectangularModule(c, options) for c in channels)
        self.fuse = nn.ModuleList(Fuse(c, width) for c in channels)
        self.level_convs = nn.ModuleList(LevelConv(width, c, 1) for c in channels[:-1])
        self.prior = ConvNormAct(width, width, 1, groups=width)
        self.prototypes = ClassPrototypes()
        self.guidance = PrototypeGuidance(width)
        self.dropout = nn.Dropout2d(options.dropout)
        self.classifier = pixel_classifier(width, num_classes)
        self._initialize()

    def _initialize(self) -> None:
        """Initialize what differs from the defaults of its parts (cgrseg/PAPER 3.5)."""
        nn.init.kaiming_normal_(self.guidance.class_weight.weight, mode="fan_in", nonlinearity="relu")
        nn.init.zeros_(self.guidance.class_weight.bias)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self.guidance.expand.weight)  # the gate starts at 0.5
        nn.init.zeros_(self.guidance.expand.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        levels = features[-_LEVELS:]
        context = self.pyramid(levels)
        fused = self.fuse[2](self.levels[2](levels[2]), context[2])
        for i in (1, 0):
            local = self.levels[i](levels[i] + self.level_convs[i](fused, size_of(levels[i])))
            fused = self.fuse[i](local, context[i])
        # the first logits are not supervised: they only weigh the prototypes
        prior = self.classifier(self.dropout(self.prior(fused)))
        guided = self.guidance(fused, self.prototypes(fused, prior))
        return self.classifier(self.dropout(guided + fused))


class CGRSeg(EncoderDecoder):
    """CGRSeg (https://arxiv.org/abs/2405.06228): logits at the stride of the third-last feature level (8).

    Args:
        options: backbone, width and depth of the head.
        num_classes: K.
        loss: training loss; the published one is plain cross entropy averaged over all pixels.

    Raises:
        InputError: the backbone is unknown, has fewer than three levels, or its weights cannot be had.
    """

    def __init__(self, options: CGRSegModel, num_classes: int, loss: Loss | None = None) -> None:
        changes: dict[str, Any] = {}
        if options.drop_path > 0:
            changes["drop_path_rate"] = options.drop_path
        if options.position_tables != "zero":
            changes["position_tables"] = options.position_tables
        backbone = backbone_of(options, levels=_LEVELS, paper="CGRSeg", **changes)
        head = CGRSegHead(backbone.channels[-_LEVELS:], num_classes, options)
        super().__init__(backbone, head, num_classes, SegmentationLoss(loss or Loss()))


def cgrseg_s0(num_classes: int = 150, **changes: Any) -> CGRSeg:
    """CGRSeg on EfficientFormerV2-S0: smaller than anything published. `changes` replaces options."""
    return CGRSeg(replace(CGRSEG_S0, **changes), num_classes)


def cgrseg_t(num_classes: int = 150, **changes: Any) -> CGRSeg:
    """CGRSeg-T. `changes` replaces options, e.g. `pretrained=False`."""
    return CGRSeg(replace(CGRSEG_T, **changes), num_classes)


def cgrseg_b(num_classes: int = 150, **changes: Any) -> CGRSeg:
    """CGRSeg-B as released; `pyramid_modules=5` is the model of the published table."""
    return CGRSeg(replace(CGRSEG_B, **changes), num_classes)


def cgrseg_l(num_classes: int = 150, **changes: Any) -> CGRSeg:
    """CGRSeg-L. `changes` replaces options."""
    return CGRSeg(replace(CGRSEG_L, **changes), num_classes)


def build(recipe: Recipe, num_classes: int) -> CGRSeg:
    """Return the network of a recipe with its initial weights."""
    assert isinstance(recipe.model, CGRSegModel)
    return CGRSeg(recipe.model, num_classes, recipe.loss)
