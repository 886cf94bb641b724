"""Where deformable attention samples: reference points, and the locations that offsets give around them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segcore.layers.kept_by_size import kept_by_size


def reference_grid(level_sizes: Sequence[tuple[int, int]], *, device: torch.device | str | None = None) -> Tensor:
    """Return the pixel centers of one or several maps, row-major, maps concatenated.

    (ecfd/PAPER 3.4; the encoder of unept/PAPER 3.6. The decoder's grid of unept/PAPER 3.7 is that of one square map.)

    Args:
        level_sizes: height and width of every map, pixels.

    Shapes:
        (1, Q, 1, 2) float32, Q = the sum of h * w; (x, y) in (0, 1), to broadcast over batch and levels.
    """
    grids = []
    for height, width in level_sizes:
        y = (torch.arange(height, device=device).float() + 0.5) / height
        x = (torch.arange(width, device=device).float() + 0.5) / width
        grids.append(torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).flatten(0, 1))
    return torch.cat(grids)[None, :, None]


reference_points = kept_by_size(reference_grid)
"""The same, kept for the next call with the same sizes, which must be a tuple."""


def sampling_locations(reference: Tensor, offsets: Tensor, level_sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Return the locations that `deform_attn` samples, float32 or wider whatever the precision of the offsets.

    A point (x, y) moves by its offset in pixels of the level. A box (x, y, w, h) moves by its offset in halves of the
    box, divided by the number of points (ecfd/PAPER 3.4).

    Args:
        reference: points or boxes of the queries, 0-1 of the image, one per level or one for all.
        level_sizes: height and width of every level, pixels.

    Shapes:
        reference (B or 1, Q, L or 1, 2 or 4), offsets (B, Q, M, L, P, 2) -> (B, Q, M, L, P, 2), (x, y), 0-1 inside

    Raises:
        ValueError: if the last axis of the reference holds neither 2 nor 4 values.
    """
    reference = reference[:, :, None, :, None]  # (B, Q, 1, L, 1, 2 or 4)
    offsets = offsets.to(torch.promote_types(reference.dtype, torch.float32))  # bf16 has 3 digits: pixels would be lost
    if reference.shape[-1] == 2:
        # filled on the device, one number at a time: a tensor made of a list would wait for the device
        numbers = [number for height, width in level_sizes for number in (width, height)]
        extents = [torch.full((), number, dtype=offsets.dtype, device=offsets.device) for number in numbers]
        extent = torch.stack(extents).view(-1, 1, 2)  # (L, 1, 2), (w, h)
        return reference + offsets / extent
    if reference.shape[-1] == 4:
        return reference[..., :2] + offsets * (reference[..., 2:] * (0.5 / offsets.shape[-2]))
    raise ValueError(f"reference must hold (x, y) or (x, y, w, h) in its last axis, got shape {tuple(reference.shape)}")
