"""Options of UN-EPT, and its two published networks: plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from segcore.errors import check
from segcore.recipe import Model
from segcore.recipe.ranges import AT_LEAST_1, BELOW_1

STRIDE = 8
"""Image pixels per query along each axis: three convolutions of stride 2 make the queries."""


@dataclass(frozen=True, kw_only=True)
class UNEPTModel(Model):
    """UN-EPT on any backbone with at least three feature levels; the last three are the pyramid."""

    # no tensor depends on them, and a test may want other sizes than the training
    training_only: ClassVar[tuple[str, ...]] = ("mirror_angles", "void_is_boundary", "resize_queries")

    window: Annotated[int, AT_LEAST_1] = 480
    """Side of the square input, pixels: training crop and test window. The query table has (window / 8)^2 rows."""
    resize_queries: bool = False
    """Extension: stretch the query table, so that inputs of any size are taken. Published: `window` only."""
    width: Annotated[int, AT_LEAST_1] = 256
    """Channels of queries, tokens and spatial branch (C)."""
    heads: Annotated[int, AT_LEAST_1] = 8
    """Attention heads (M)."""
    points: Annotated[int, AT_LEAST_1] = 16
    """Samples per head and level of the deformable attention (K)."""
    feedforward: Annotated[int, AT_LEAST_1] = 2048
    """Hidden channels of the encoder's and the decoder's feed-forward layers."""
    encoder_layers: Annotated[int, AT_LEAST_1] = 2
    """Layers that attend within the pyramid."""
    decoder_layers: Annotated[int, AT_LEAST_1] = 2
    """Layers whose queries, one per stride-8 pixel, attend to the pyramid."""
    dropout: Annotated[float, BELOW_1] = 0.1
    """Dropout probability in the context branch."""
    self_attention: Literal["batch", "value", "pixels"] = "batch"
    """Keys of a query in training. batch: its pixel in all images (published); value: itself; pixels: its image."""
    mirror_angles: bool = False
    """Mirror the boundary directions where the image is mirrored. Published: east and west stay as they were."""
    void_is_boundary: bool = True
    """Unlabeled pixels take part in the boundary losses, at distance 0 as published; off leaves them out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.window % STRIDE == 0, f"--model.window must be a multiple of {STRIDE}, got {self.window}")
        check(
            self.width % 4 == 0 and self.width % self.heads == 0,
            f"--model.width must be a multiple of 4 and of --model.heads {self.heads}, got {self.width}",
        )


UNEPT_R50 = UNEPTModel(backbone="resnet50c")
UNEPT_DEIT = UNEPTModel(backbone="deit_base_distilled_patch16_384")
