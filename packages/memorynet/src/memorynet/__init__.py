"""MemoryNet: Mining Contextual Information Beyond Image for Semantic Segmentation, ICCV 2021.

The network classes load on first use, so that importing this package (and every `--help`) needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memorynet.recipes import RECIPES, MemoryNetModel, MemorySettings
from segcore.lazy import given_by

if TYPE_CHECKING:
    from memorynet.memory import Memory, MemoryRead
    from memorynet.model import (
        MemoryHead,
        MemoryNet,
        MemorySegmentor,
        PixelHead,
        memorynet_hrnet_w48,
        memorynet_r50,
        memorynet_r101,
        memorynet_s101,
        memorynet_vit_large,
    )

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

__getattr__ = given_by("memorynet", {"memorynet.model": __all__})
