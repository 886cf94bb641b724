"""ECFD: Efficient Cross-Information Fusion Decoder for Semantic Segmentation.

The network classes load on first use, so that importing this package (and every `--help`) needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ecfd.options import ECFDModel
from ecfd.recipes import RECIPES

if TYPE_CHECKING:
    from ecfd.model import ECFD, ecfd_base, ecfd_large, ecfd_small, ecfd_tiny

__all__ = ["ECFD", "RECIPES", "ECFDModel", "ecfd_base", "ecfd_large", "ecfd_small", "ecfd_tiny"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("ecfd.model"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
