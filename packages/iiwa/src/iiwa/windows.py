"""Windows of a map, one token per window, and the sine positions of either; iiwa/PAPER 3.1 and 3.2.

Maps are channels-last, (B, H, W, C). Windows are numbered row-major, image by image. Padding is zeros at bottom and
right, never masked: it takes part in attention and in the mean of its window, as published (iiwa/PAPER 7.5).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

_TEMPERATURE = 10_000
_EPSILON = 1e-5


def window_grid(height: int, width: int, window: tuple[int, int]) -> tuple[int, int]:
    """Return how many windows a map needs, (rows, columns)."""
    return -(-height // window[0]), -(-width // window[1])


def pad_to_grid(x: Tensor, window: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Zero-pad (B, H, W, C) at bottom and right to `grid` windows, (B, grid * window, C)."""
    bottom, right = grid[0] * window[0] - x.shape[1], grid[1] * window[1] - x.shape[2]
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if bottom or right else x


def pad_to_windows(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Zero-pad (B, H, W, C) at bottom and right to whole windows."""
    return pad_to_grid(x, window, window_grid(x.shape[1], x.shape[2], window))


def to_windows(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Cut a map of whole windows: (B, n_h * w_h, n_w * w_w, C) -> (B, n, N, C), N = w_h * w_w."""
    height, width = window
    return rearrange(x, "b (gh wh) (gw ww) c -> b (gh gw) (wh ww) c", wh=height, ww=width)


def window_means(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Return one token per window: (B, n_h * w_h, n_w * w_w, C) -> (B, n, C)."""
    means = F.avg_pool2d(x.permute(0, 3, 1, 2), window)  # many times faster on a CPU than a mean over two axes
    return rearrange(means, "b c gh gw -> b (gh gw) c")


def spread_tokens(tokens: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Bring one token per window back to the map, bilinear with align_corners true (iiwa/PAPER 7.3).

    Shapes:
        (B, n, C), n = grid rows * columns -> (B, *size, C)
    """
    image = rearrange(tokens, "b (gh gw) c -> b c gh gw", gh=grid[0])
    spread = F.interpolate(image, size=size, mode="bilinear", align_corners=True)
    return rearrange(spread, "b c h w -> b h w c")


def sine_position(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Return the sine table of a map: half the channels tell the row, half the column (iiwa/PAPER 3.2).

    Tables are kept by size and device, since they depend on nothing else; inside a compiled or exported graph they are
    computed in place, because a table kept from tracing holds no values.

    Args:
        channels: a multiple of 4.

    Shapes:
        (height * width, channels) float32, rows of the map one after the other
    """
    compute = _sine_table if torch.compiler.is_compiling() else _kept_sine_table
    return compute(height, width, channels, device)


def _sine_table(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    half = channels // 2
    exponent = 2 * torch.arange(half, device=device).div(2, rounding_mode="floor") / half
    period = _TEMPERATURE**exponent  # (half,)
    axes = []
    for length in (height, width):
        place = torch.arange(1, length + 1, dtype=torch.float32, device=device) / (length + _EPSILON) * (2 * math.pi)
        angle = place[:, None] / period  # (length, half)
        axes.append(torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1))
    y, x = axes
    both = [y[:, None].expand(height, width, half), x[None].expand(height, width, half)]
    return torch.cat(both, dim=2).flatten(0, 1)


@lru_cache(maxsize=256)
def _kept_sine_table(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False), torch.no_grad():  # usable in training, too
        return _sine_table(height, width, channels, device)
