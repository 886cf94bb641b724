"""MemoryNet: Mining Contextual Information Beyond Image for Semantic Segmentation, ICCV 2021.

The network classes load on first use, so that importing this package (and every `--help`) needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memorynet.options import MemoryNetModel
from memorynet.recipes import RECIPES
from segcore.paper import given_by

if TYPE_CHECKING:
    from memorynet.head import MemoryHead
    from memorynet.memory import MemorySettings
    from memorynet.model import (
        MemoryNet,
        MemorySegmentor,
        memorynet_hrnet_w48,
        memorynet_r50,
        memorynet_r101,
        memorynet_s101,
        memorynet_vit_large,
    )

__all__ = [
    "RECIPES",
    "MemoryHead",
    "MemoryNet",
    "MemoryNetModel",
    "MemorySegmentor",
    "MemorySettings",
    "memorynet_hrnet_w48",
    "memorynet_r50",
    "memorynet_r101",
    "memorynet_s101",
    "memorynet_vit_large",
]

__getattr__ = given_by("memorynet.model", __all__)
