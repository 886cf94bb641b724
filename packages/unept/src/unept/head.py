"""UN-EPT's head, in the order of the paper: spatial branch, boundary heads, pyramid, context branch, classifier.

https://arxiv.org/abs/2107.14209, unept/PAPER 3. Published tensor names are in `convert.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from segcore.errors import InputError
from unept.context import ContextBranch
from unept.ops import NUM_DIRECTIONS
from unept.options import STRIDE, UNEPTModel


class Predictions(NamedTuple):
    """What the head says in training.

    Shapes (stride 8: h = H/8, w = W/8):
        logits (B, K, h, w); boundary (B, 2, h, w), channel 1 = boundary; direction (B, 8, h, w), bins of `DIRECTIONS`
    """

    logits: Tensor
    boundary: Tensor
    direction: Tensor


class SpatialBranch(nn.Sequential):
    """Three convolutions that bring the image to stride 8; no ReLU after the last (unept/PAPER 3.1).

    Shapes:
        image (B, 3, H, W) -> (B, C, h, w), h = ceil(H/8), w = ceil(W/8)
    """

    def __init__(self, width: int) -> None:
        widths = (3, width // 4, width // 2, width)
        layers: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            layers += [nn.Conv2d(narrow, wide, 3, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
        super().__init__(*layers[:-1])


def boundary_head(width: int, outputs: int) -> nn.Sequential:
    """Return a head on the spatial branch: (B, C, h, w) -> (B, outputs, h, w) (unept/PAPER 3.2)."""
    return nn.Sequential(
        nn.Conv2d(width, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, outputs, 1, bias=False),
    )


class UNEPTHead(nn.Module):
    """Image and feature pyramid -> class logits at stride 8.

    The boundary heads are trained beside the classifier and left out at test time, as published.

    Args:
        channels: of the pyramid's levels.
        num_classes: K.

    Shapes:
        features: the image (B, 3, H, W), then the backbone's maps, of which the last L (B, C_i, h_i, w_i) are used
        -> (B, K, h, w), h = H/8, w = W/8
    """

    def __init__(self, channels: Sequence[int], num_classes: int, options: UNEPTModel) -> None:
        super().__init__()
        assert len(channels) == options.levels
        width = options.width
        self.side = options.window // STRIDE
        self.resize_queries = options.resize_queries
        self.spatial = SpatialBranch(width)
        self.boundary = boundary_head(width, 2)
        self.direction = boundary_head(width, NUM_DIRECTIONS)
        self.levels = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.query_embedding = nn.Parameter(torch.empty(self.side**2, width))
        nn.init.normal_(self.query_embedding)
        self.context = ContextBranch(options)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self._classify(self.spatial(features[0]), features)

    def predictions(self, features: Sequence[Tensor]) -> Predictions:
        """Return the logits together with the boundary heads' outputs."""
        spatial = self.spatial(features[0])
        return Predictions(self._classify(spatial, features), self.boundary(spatial), self.direction(spatial))

    def _classify(self, spatial: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Spatial branch (B, C, h, w) and features -> logits (B, K, h, w)."""
        height, width = spatial.shape[-2:]
        levels = [project(level) for project, level in zip(self.levels, features[-len(self.levels) :], strict=True)]
        queries = rearrange(spatial, "b c h w -> b (h w) c") + self._queries(height, width)
        context = self.context(levels, queries, (height, width))
        return self.classifier(rearrange(context, "b (h w) c -> b c h w", h=height))

    def _queries(self, height: int, width: int) -> Tensor:
        """Return the learnt embedding of every query, (h*w, C); stretched for another size than the table's."""
        if (height, width) == (self.side, self.side):
            return self.query_embedding
        if not self.resize_queries:
            raise InputError(wrong_size(self.side * STRIDE, height * STRIDE, width * STRIDE))
        table = rearrange(self.query_embedding, "(h w) c -> 1 c h w", h=self.side)
        stretched = F.interpolate(table, size=(height, width), mode="bicubic", align_corners=False)
        return rearrange(stretched, "1 c h w -> (h w) c")


def wrong_size(window: int, height: int, width: int) -> str:
    """Return the sentence for an input that is not the window."""
    return (
        f"this network takes windows of {window}x{window} pixels, got {height}x{width}: test with --evaluate.mode "
        f"slide --evaluate.crop {window} {window}, train with --augment.crop {window} {window} (or another "
        "--model.window), or add --model.resize-queries true, an extension for any size"
    )
