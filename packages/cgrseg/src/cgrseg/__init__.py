"""CGRSeg: Context-Guided Spatial Feature Reconstruction for Efficient Semantic Segmentation, ECCV 2024.

The network classes load on first use, so that importing this package (and every `--help`) needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cgrseg.options import CGRSegModel
from cgrseg.recipes import RECIPES

if TYPE_CHECKING:
    from cgrseg.model import CGRSeg, cgrseg_b, cgrseg_l, cgrseg_s0, cgrseg_t

__all__ = ["RECIPES", "CGRSeg", "CGRSegModel", "cgrseg_b", "cgrseg_l", "cgrseg_s0", "cgrseg_t"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("cgrseg.model"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
