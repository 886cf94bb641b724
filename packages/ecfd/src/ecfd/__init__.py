"""ECFD: Efficient Cross-Information Fusion Decoder for Semantic Segmentation.

The network classes load on first use, so that importing this package (and every `--help`) needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecfd.recipes import RECIPES, ECFDModel
from segcore.lazy import given_by

if TYPE_CHECKING:
    from ecfd.model import ECFD, ecfd_base, ecfd_large, ecfd_small, ecfd_tiny

__all__ = ["ECFD", "RECIPES", "ECFDModel", "ecfd_base", "ecfd_large", "ecfd_small", "ecfd_tiny"]

__getattr__ = given_by("ecfd", {"ecfd.model": __all__})
