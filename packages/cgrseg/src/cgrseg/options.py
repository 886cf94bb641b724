"""Options of CGRSeg, and its variants: plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from segcore.errors import check
from segcore.recipe import Model
from segcore.recipe.ranges import AT_LEAST_1, BELOW_1


@dataclass(frozen=True, kw_only=True)
class CGRSegModel(Model):
    """CGRSeg on any backbone with at least three feature levels; the last three are used."""

    width: Annotated[int, AT_LEAST_1] = 128
    """Channels of the fused maps (E)."""
    pyramid_modules: Annotated[int, AT_LEAST_1] = 5
    """Rectangular modules of the pyramid context. B: 6 as released, 5 as in the published table."""
    band: Annotated[int, AT_LEAST_1] = 11
    """Length of the band convolutions, odd (L: 9)."""
    dropout: Annotated[float, BELOW_1] = 0.1
    """Probability that a channel is dropped before the classifier."""
    drop_path: Annotated[float, BELOW_1] = 0.0
    """Drop-path rate of the backbone's last block (EfficientFormerV2-S2: 0.02, L: 0.1)."""
    position_tables: Literal["zero", "resampled"] = "zero"
    """EfficientFormerV2: start the position tables at zero (published), or stretch the ImageNet ones."""
    sync_all_norms: bool = False
    """Synchronize the norms inside the rectangular modules, too (published: per GPU)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.band % 2 == 1, f"--model.band must be odd, got {self.band}")


CGRSEG_S0 = CGRSegModel(backbone="efficientformerv2_s0")
CGRSEG_T = CGRSegModel(backbone="efficientformerv2_s1")
CGRSEG_B = CGRSegModel(backbone="efficientformerv2_s2", width=256, pyramid_modules=6, drop_path=0.02)
CGRSEG_L = CGRSegModel(backbone="efficientformerv2_l", width=256, band=9, drop_path=0.1)
