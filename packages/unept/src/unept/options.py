"""Options of UN-EPT, and its two published networks: plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from segcore.errors import check
from segcore.recipe import Model

STRIDE = 8
"""Image pixels per query along each axis: three convolutions of stride 2 make the queries."""


@dataclass(frozen=True, kw_only=True)
class UNEPTModel(Model):
    """UN-EPT on any backbone with at least `levels` feature levels; the last ones are the pyramid."""

    # no tensor depends on them, and a test may want other sizes than the training
    training_only: ClassVar[tuple[str, ...]] = ("mirror_angles", "void_is_boundary", "resize_queries")

    window: int = 480
    """Side of the square input, pixels: training crop and test window. The query table has (window / 8)^2 rows."""
    resize_queries: bool = False
    """Extension: stretch the query table, so that inputs of any size are taken. Published: `window` only."""
    levels: int = 3
    """Feature levels of the pyramid (L): the backbone's last ones."""
    width: int = 256
    """Channels of queries, tokens and spatial branch (C)."""
    heads: int = 8
    """Attention heads (M)."""
    points: int = 16
    """Samples per head and level of the deformable attention (K)."""
    feedforward: int = 2048
    """Hidden channels of the encoder's and the decoder's feed-forward layers."""
    encoder_layers: int = 2
    """Layers that attend within the pyramid."""
    decoder_layers: int = 2
    """Layers whose queries, one per stride-8 pixel, attend to the pyramid."""
    dropout: float = 0.1
    """Dropout probability in the context branch."""
    self_attention: Literal["batch", "value", "pixels"] = "batch"
    """Keys of a query in training. batch: its pixel in all images (published); value: itself; pixels: its image."""
    mirror_angles: bool = False
    """Mirror the boundary directions where the image is mirrored. Published: east and west stay as they were."""
    void_is_boundary: bool = True
    """Unlabeled pixels take part in the boundary losses, at distance 0 as published; off leaves them out."""

    def __post_init__(self) -> None:
        check(
            self.window >= STRIDE and self.window % STRIDE == 0,
            f"--model.window must be a positive multiple of {STRIDE}, got {self.window}",
        )
        check(self.levels >= 1, f"--model.levels must be at least 1, got {self.levels}")
        check(self.heads >= 1, f"--model.heads must be at least 1, got {self.heads}")
        check(
            self.width >= 4 and self.width % 4 == 0 and self.width % self.heads == 0,
            f"--model.width must be a multiple of 4 and of --model.heads {self.heads}, got {self.width}",
        )
        check(self.points >= 1, f"--model.points must be at least 1, got {self.points}")
        check(self.feedforward >= 1, f"--model.feedforward must be at least 1, got {self.feedforward}")
        check(self.encoder_layers >= 1, f"--model.encoder-layers must be at least 1, got {self.encoder_layers}")
        check(self.decoder_layers >= 1, f"--model.decoder-layers must be at least 1, got {self.decoder_layers}")
        check(0 <= self.dropout < 1, f"--model.dropout must be in [0, 1), got {self.dropout}")


UNEPT_R50 = UNEPTModel(backbone="resnet50c")
UNEPT_DEIT = UNEPTModel(backbone="deit_base_distilled_patch16_384")
