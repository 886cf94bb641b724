"""UN-EPT: A Unified Efficient Pyramid Transformer for Semantic Segmentation, ICCV 2021 workshops.

The network classes load on first use, so that importing this package (and every `--help`) needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from unept.options import UNEPTModel
from unept.recipes import RECIPES

if TYPE_CHECKING:
    from unept.model import UNEPT, unept_deit, unept_r50

__all__ = ["RECIPES", "UNEPT", "UNEPTModel", "unept_deit", "unept_r50"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("unept.model"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
