"""Feature maps as rows of tokens and back, and the reference points of tokens (ecfd/PAPER 3.1, 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segcore.layers.deform_attn.points import reference_grid
from segcore.layers.kept_by_size import kept_by_size

Size = tuple[int, int]
"""Height and width of a map, pixels."""


def size_of(x: Tensor) -> Size:
    """Return the height and width of a map (B, C, h, w)."""
    return x.shape[-2], x.shape[-1]


def to_tokens(maps: Sequence[Tensor]) -> Tensor:
    """Concatenate maps (B, C, h_i, w_i), each row-major: (B, S, C), S = the sum of h_i * w_i."""
    rows = [level.flatten(2).transpose(1, 2) for level in maps]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)


def to_maps(tokens: Tensor, sizes: Sequence[Size]) -> list[Tensor]:
    """Split tokens (B, S, C) into views (B, C, h_i, w_i), whose channels lie side by side in memory."""
    parts = tokens.split([height * width for height, width in sizes], dim=1)
    return [part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]


@kept_by_size
def _reference(sizes: tuple[Size, ...], device: torch.device) -> Tensor:
    return reference_grid(sizes, device=device)


def reference_points(sizes: Sequence[Size], device: torch.device) -> Tensor:
    """Return the pixel centers of the maps' tokens, (1, S, 1, 2), (x, y) in 0-1; kept for every size and device."""
    return _reference(tuple(sizes), device)
