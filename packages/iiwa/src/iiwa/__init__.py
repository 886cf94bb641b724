"""IIWA: intra- and inter-window attention for semantic segmentation.

The network classes load on first use, so that importing this package (and every `--help`) needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iiwa.recipes import RECIPES, IIWAModel
from segcore.lazy import given_by

if TYPE_CHECKING:
    from iiwa.model import IIWA, iiwa_b, iiwa_l, iiwa_s

__all__ = ["IIWA", "RECIPES", "IIWAModel", "iiwa_b", "iiwa_l", "iiwa_s"]

__getattr__ = given_by("iiwa", {"iiwa.model": __all__})
