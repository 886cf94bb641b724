"""UN-EPT: A Unified Efficient Pyramid Transformer for Semantic Segmentation, ICCV 2021 workshops.

The network classes load on first use, so that importing this package (and every `--help`) needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segcore.lazy import given_by
from unept.recipes import RECIPES, UNEPTModel

if TYPE_CHECKING:
    from unept.model import UNEPT, unept_deit, unept_r50

__all__ = ["RECIPES", "UNEPT", "UNEPTModel", "unept_deit", "unept_r50"]

__getattr__ = given_by("unept", {"unept.model": __all__})
