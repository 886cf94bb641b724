"""Options of CGRSeg, and its variants: plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from segcore.errors import InputError
from segcore.recipe import Model


@dataclass(frozen=True, kw_only=True)
class CGRSegModel(Model):
    """CGRSeg on any backbone with at least three feature levels; the last three are used."""

    width: int = 128
    """Channels of the fused maps (E)."""
    pyramid_modules: int = 5
    """Rectangular modules of the pyramid context. B: 6 as released, 5 as in the published table."""
    band: int = 11
    """Length of the band convolutions, odd (L: 9)."""
    dropout: float = 0.1
    """Probability that a channel is dropped before the classifier."""
    drop_path: float = 0.0
    """Drop-path rate of the backbone's last block (EfficientFormerV2-S2: 0.02, L: 0.1)."""
    position_tables: Literal["zero", "resampled"] = "zero"
    """EfficientFormerV2: start the position tables at zero (published), or stretch the ImageNet ones."""
    sync_all_norms: bool = False
    """Synchronize the norms inside the rectangular modules, too (published: per GPU)."""

    def __post_init__(self) -> None:
        if self.band < 1 or self.band % 2 == 0:
            raise InputError(f"--model.band must be odd and positive, got {self.band}")
        if self.width < 1:
            raise InputError(f"--model.width must be positive, got {self.width}")
        if self.pyramid_modules < 1:
            raise InputError(f"--model.pyramid-modules must be at least 1, got {self.pyramid_modules}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"--model.dropout must be in [0, 1), got {self.dropout}")
        if not 0 <= self.drop_path < 1:
            raise InputError(f"--model.drop-path must be in [0, 1), got {self.drop_path}")


CGRSEG_S0 = CGRSegModel(backbone="efficientformerv2_s0")
CGRSEG_T = CGRSegModel(backbone="efficientformerv2_s1")
CGRSEG_B = CGRSegModel(backbone="efficientformerv2_s2", width=256, pyramid_modules=6, drop_path=0.02)
CGRSEG_L = CGRSegModel(backbone="efficientformerv2_l", width=256, band=9, drop_path=0.1)
