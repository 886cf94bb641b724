"""Options of ECFD, its sizes and its variants: plain data, no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from segcore.errors import check
from segcore.recipe import Model

Head = Literal["ecfd", "patch4", "fpn", "general_fpn", "general", "spatial"]
TWO_STREAMS: tuple[Head, ...] = ("ecfd", "patch4")
"""Variants with context and spatial tokens; the others have one stream or none."""


@dataclass(frozen=True, kw_only=True)
class ECFDModel(Model):
    """ECFD on any backbone with at least four feature levels; the last four are used."""

    head: Head = "ecfd"
    """ecfd: the paper's. patch4: without RCE. fpn: without blocks. general_fpn, general, spatial: strategies 1 to 3."""
    embed_dim: int = 192
    """Channels of the tokens (E): tiny 192, small 384, base 768, large 1024."""
    heads: int = 6
    """Attention heads: tiny and small 6, base 12, large 16."""
    channels: int = 256
    """Channels of the decoder (C): 256 on ResNet, 192 on Swin-L and ConvNeXt-L."""
    depth: int = 3
    """Fusion blocks (L)."""
    points: int = 4
    """Samples per query, head and level."""
    mlp_ratio: float = 0.5
    """Width of the MLP over E (single-stream variants: 0.25 always, as published)."""
    value_ratio: float = 1.0
    """Width of the attention's values over E (`deform_ratio`)."""
    position_grid: tuple[int, int] = (128, 256)
    """Height and width of the position grid: a quarter of the training crop. Checkpoints hold their product only."""
    context_to_levels: bool = False
    """Add the context after each of three blocks to a level (`add_context_information`); off in all published runs."""
    dropout: float = 0.1
    """Probability that a channel is dropped before a classifier."""
    auxiliary_channels: int = 256
    """Width of the auxiliary head on level 3, which is used in training only."""
    output_stride: Literal[8, 32] = 32
    """Stride of the coarsest level; 8 dilates a ResNet (strategy 2)."""
    drop_path: float = 0.0
    """Drop-path rate of the backbone's last block (Swin-L: 0.3, ConvNeXt-L: 0.4)."""

    def __post_init__(self) -> None:
        for name in ("embed_dim", "heads", "channels", "depth", "points", "auxiliary_channels"):
            value = getattr(self, name)
            check(value >= 1, f"--model.{name.replace('_', '-')} must be at least 1, got {value}")
        check(min(self.position_grid) >= 1, f"--model.position-grid must be positive, got {self.position_grid}")
        for name in ("mlp_ratio", "value_ratio"):
            value = getattr(self, name)
            check(math.isfinite(value), f"--model.{name.replace('_', '-')} must be a number, got {value}")
        width = int(self.embed_dim * self.value_ratio)
        check(
            width >= 1 and width % self.heads == 0,
            f"--model.heads must divide the {width} channels of the values (--model.embed-dim x --model.value-ratio), "
            f"got {self.heads}",
        )
        check(
            int(self.embed_dim * self.mlp_ratio) >= 1,
            f"--model.mlp-ratio leaves no channel of {self.embed_dim}, got {self.mlp_ratio}",
        )
        check(
            not self.context_to_levels or self.depth == 3,
            f"--model.context-to-levels needs --model.depth 3, one block per level, got {self.depth}",
        )
        check(
            not self.context_to_levels or self.head in TWO_STREAMS,
            f"--model.context-to-levels needs --model.head {' or '.join(TWO_STREAMS)}, got {self.head}",
        )
        check(0 <= self.dropout < 1, f"--model.dropout must be in [0, 1), got {self.dropout}")
        check(0 <= self.drop_path < 1, f"--model.drop-path must be in [0, 1), got {self.drop_path}")


HEADS_BY_WIDTH = {192: 6, 384: 6, 768: 12, 1024: 16}
"""Attention heads of the four sizes, by E: tensor shapes do not tell them."""

TINY = ECFDModel(backbone="resnet50c")
SMALL = ECFDModel(backbone="resnet50c", embed_dim=384)
BASE = ECFDModel(backbone="resnet50c", embed_dim=768, heads=12)
LARGE = ECFDModel(backbone="resnet50c", embed_dim=1024, heads=16)
