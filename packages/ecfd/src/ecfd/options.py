"""Options of ECFD, its sizes and its variants: plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from segcore.errors import check
from segcore.recipe import Model
from segcore.recipe.ranges import AT_LEAST_1, BELOW_1, POSITIVE, Range

Head = Literal["ecfd", "patch4", "fpn", "general_fpn", "general", "spatial"]
TWO_STREAMS: tuple[Head, ...] = ("ecfd", "patch4")
"""Variants with context and spatial tokens; the others have one stream or none."""
_RATIO = Range("be in (0, 100]", POSITIVE.low, 100)


@dataclass(frozen=True, kw_only=True)
class ECFDModel(Model):
    """ECFD on any backbone with at least four feature levels; the last four are used."""

    head: Head = "ecfd"
    """ecfd: the paper's. patch4: without RCE. fpn: without blocks. general_fpn, general, spatial: strategies 1 to 3."""
    embed_dim: Annotated[int, AT_LEAST_1] = 192
    """Channels of the tokens (E): tiny 192, small 384, base 768, large 1024."""
    heads: Annotated[int, AT_LEAST_1] = 6
    """Attention heads: tiny and small 6, base 12, large 16."""
    channels: Annotated[int, AT_LEAST_1] = 256
    """Channels of the decoder (C): 256 on ResNet, 192 on Swin-L and ConvNeXt-L."""
    depth: Annotated[int, AT_LEAST_1] = 3
    """Fusion blocks (L)."""
    points: Annotated[int, AT_LEAST_1] = 4
    """Samples per query, head and level."""
    mlp_ratio: Annotated[float, _RATIO] = 0.5
    """Width of the MLP over E (single-stream variants: 0.25 always, as published)."""
    value_ratio: Annotated[float, _RATIO] = 1.0
    """Width of the attention's values over E (`deform_ratio`)."""
    position_grid: Annotated[tuple[int, int], AT_LEAST_1] = (128, 256)
    """Height and width of the position grid: a quarter of the training crop. Checkpoints hold their product only."""
    context_to_levels: bool = False
    """Add the context after each of three blocks to a level (`add_context_information`); off in all published runs."""
    dropout: Annotated[float, BELOW_1] = 0.1
    """Probability that a channel is dropped before a classifier."""
    auxiliary_channels: Annotated[int, AT_LEAST_1] = 256
    """Width of the auxiliary head on level 3, which is used in training only."""
    output_stride: Literal[8, 32] = 32
    """Stride of the coarsest level; 8 dilates a ResNet (strategy 2)."""
    drop_path: Annotated[float, BELOW_1] = 0.0
    """Drop-path rate of the backbone's last block (Swin-L: 0.3, ConvNeXt-L: 0.4)."""

    def __post_init__(self) -> None:
        super().__post_init__()
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


HEADS_BY_WIDTH = {192: 6, 384: 6, 768: 12, 1024: 16}
"""Attention heads of the four sizes, by E: tensor shapes do not tell them."""

TINY = ECFDModel(backbone="resnet50c")
SMALL = ECFDModel(backbone="resnet50c", embed_dim=384)
BASE = ECFDModel(backbone="resnet50c", embed_dim=768, heads=12)
LARGE = ECFDModel(backbone="resnet50c", embed_dim=1024, heads=16)
