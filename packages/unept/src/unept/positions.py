"""Where tokens and queries lie: sine position maps and reference points, computed once per size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from segcore.layers.deform_attn.points import reference_grid

Sizes = tuple[tuple[int, int], ...]
"""Height and width of every map, pixels of the map."""
_KEPT = 16  # window sizes and levels of a few networks


def sine_positions(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Return the sine position map of one level (unept/PAPER 3.4): the y half of the channels, then the x half.

    Rows and columns count from one, without an offset of half a pixel, and are scaled to 2 pi.

    Shapes:
        (height * width, channels) float32, row-major; channels a multiple of 4
    """
    half = channels // 2
    exponent = 2 * (torch.arange(half, device=device) // 2) / half
    wavelength = torch.pow(10000.0, exponent.double()).float()  # (C/2,), each twice: for sine and cosine
    waves = []
    for length in (height, width):
        place = torch.arange(1, length + 1, dtype=torch.float32, device=device) * (2 * math.pi / (length + 1e-6))
        angle = place[:, None] / wavelength  # (length, C/2)
        waves.append(torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=-1).flatten(1))
    y, x = waves[0][:, None].expand(-1, width, -1), waves[1][None].expand(height, -1, -1)
    return torch.cat([y, x], dim=-1).flatten(0, 1)


def level_positions(sizes: Sizes, channels: int, device: torch.device) -> Tensor:
    """Return the sine position maps of all levels, (S, channels), kept for the next call with the same sizes."""
    if torch.compiler.is_compiling():  # a traced tensor must not outlive its trace
        return _level_positions(sizes, channels, device)
    return _kept_level_positions(sizes, channels, device)


def reference_points(sizes: Sizes, device: torch.device) -> Tensor:
    """Return the pixel centers of the maps, (1, Q, 1, 2), kept for the next call with the same sizes."""
    if torch.compiler.is_compiling():
        return reference_grid(sizes, device=device)
    return _kept_reference_points(sizes, device)


def _level_positions(sizes: Sequence[tuple[int, int]], channels: int, device: torch.device) -> Tensor:
    return torch.cat([sine_positions(height, width, channels, device) for height, width in sizes])


@lru_cache(maxsize=_KEPT)
def _kept_level_positions(sizes: Sizes, channels: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # training may use what a test computed first
        return _level_positions(sizes, channels, device)


@lru_cache(maxsize=_KEPT)
def _kept_reference_points(sizes: Sizes, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return reference_grid(sizes, device=device)
