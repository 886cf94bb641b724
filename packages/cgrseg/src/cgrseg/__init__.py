"""CGRSeg: Context-Guided Spatial Feature Reconstruction for Efficient Semantic Segmentation, ECCV 2024.

The network classes load on first use, so that importing this package (and every `--help`) needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cgrseg.recipes import RECIPES, CGRSegModel
from segcore.lazy import given_by

if TYPE_CHECKING:
    from cgrseg.model import CGRSeg, cgrseg_b, cgrseg_l, cgrseg_s0, cgrseg_t

__all__ = ["RECIPES", "CGRSeg", "CGRSegModel", "cgrseg_b", "cgrseg_l", "cgrseg_s0", "cgrseg_t"]

__getattr__ = given_by("cgrseg", {"cgrseg.model": __all__})
