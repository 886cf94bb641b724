"""The memory update as its definition says it: features resized to the label's size, one class after the other.

The yardstick of bench/memorynet_update.py and the oracle of tests/memorynet/test_update.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = 255


@torch.no_grad()
def plain_update_memory(
    memory: Tensor, features: Tensor, label: Tensor, momentum: float, *, strategy: str = "cosine_similarity"
) -> Tensor:
    """Compute `memorynet.memory.update_memory` of one process (memorynet/PAPER 4)."""
    pixels = F.interpolate(features, size=label.shape[1:], mode="bilinear").permute(0, 2, 3, 1)  # (B, H, W, C)
    result = memory.clone()
    for number in label.unique().tolist():
        if number == IGNORE:
            continue
        own = pixels[label == number]  # (P, C)
        empty = [slot for slot in range(memory.shape[1]) if not memory[number, slot].any()]
        if empty:
            result[number, empty[0]] = own.mean(dim=0)
            continue
        similarity = F.normalize(own, dim=1) @ F.normalize(memory[number], dim=1).T  # (P, S)
        nearest = similarity.argmax(dim=1)
        for slot, row in enumerate(memory[number]):
            target = _target(own[nearest == slot], row, strategy)
            result[number, slot] = (1 - momentum) * row + momentum * target
    return result


def _target(pixels: Tensor, row: Tensor, strategy: str) -> Tensor:
    """Average a slot's pixels: (P, C), (C,) -> (C,); 0 without pixels."""
    if len(pixels) == 0:
        return torch.zeros_like(row)
    if strategy == "mean":
        return pixels.mean(dim=0)
    weight = (1 - F.cosine_similarity(pixels, row.unsqueeze(0), dim=1)).clamp(min=1e-12)
    return ((weight / weight.sum()).unsqueeze(1) * pixels).sum(dim=0)
