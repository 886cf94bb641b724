"""MemoryNet: Mining Contextual Information Beyond Image for Semantic Segmentation, ICCV 2021.

The network classes load on first use, so that importing this package (and every `--help`) needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from memorynet.options import MemoryNetModel
from memorynet.recipes import RECIPES

if TYPE_CHECKING:
    from memorynet.head import MemoryHead, PixelHead
    from memorynet.memory import Memory, MemoryRead, MemorySettings
    from memorynet.model import (
        MemoryNet,
        MemorySegmentor,
        memorynet_hrnet_w48,
        memorynet_r50,
        memorynet_r101,
        memorynet_s101,
        memorynet_vit_large,
    )

_MODULES = {
    "MemoryHead": "head",
    "PixelHead": "head",
    "Memory": "memory",
    "MemoryRead": "memory",
    "MemorySettings": "memory",
    "MemoryNet": "model",
    "MemorySegmentor": "model",
    "memorynet_hrnet_w48": "model",
    "memorynet_r50": "model",
    "memorynet_r101": "model",
    "memorynet_s101": "model",
    "memorynet_vit_large": "model",
}
__all__ = [
    "RECIPES",
    "Memory",
    "MemoryHead",
    "MemoryNet",
    "MemoryNetModel",
    "MemoryRead",
    "MemorySegmentor",
    "MemorySettings",
    "PixelHead",
    "memorynet_hrnet_w48",
    "memorynet_r50",
    "memorynet_r101",
    "memorynet_s101",
    "memorynet_vit_large",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"memorynet.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
