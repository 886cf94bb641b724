"""Small IIWA networks for the tests of this package."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from iiwa.model import IIWA
from iiwa.recipes import IIWAModel

TINY = IIWAModel(
    backbone="swin_tiny_patch4_window7_224",
    pretrained=False,
    backbone_width=16,
    backbone_depths=(1, 1, 2, 1),
    backbone_heads=(1, 2, 4, 8),
    backbone_drop_path=0.0,
    fusion_heads=(2, 4, 8),
    fusion_dropout=0.0,
    embed_dim=48,
    query_dim=32,
    decoder_depth=2,
    decoder_heads=4,
    decoder_window=(4, 4),
    decoder_drop_path=0.0,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Return standard normal values that depend on shape and seed only."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small_network(num_classes: int = 7, **changes: Any) -> IIWA:
    """Return IIWA on a small Swin in evaluation mode; position tables that start at zero are filled."""
    torch.manual_seed(0)
    model = IIWA(replace(TINY, **changes), num_classes)
    for name, parameter in model.named_parameters():
        if name.endswith("bias_table"):
            nn.init.normal_(parameter, std=0.5)
    return model.eval()
