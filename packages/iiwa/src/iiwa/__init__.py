"""IIWA: intra- and inter-window attention for semantic segmentation.

The network classes load on first use, so that importing this package (and every `--help`) needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from iiwa.options import IIWAModel
from iiwa.recipes import RECIPES

if TYPE_CHECKING:
    from iiwa.model import IIWA, iiwa_b, iiwa_l, iiwa_s

__all__ = ["IIWA", "RECIPES", "IIWAModel", "iiwa_b", "iiwa_l", "iiwa_s"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("iiwa.model"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
