"""3x3 convolution of a bilinearly enlarged map, most of it computed before the enlargement.

A 3x3 convolution is a sum of nine 1x1 convolutions, shifted by a pixel each; 1x1 convolutions commute with resizing. So
the nine products are made at the small size, and resize, shift and sum follow as two small banded matrices: rows, then
columns. Nothing is approximated; what remains is rounding. Enlarging 4 (8) times per axis costs a third (a ninth) of
the plain form's time; from 2 times down the plain form is as fast, and is taken.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ecfd.constants import kept
from ecfd.tokens import Size, size_of

_LEAST_ENLARGEMENT = 8  # output pixels per input pixel from which the small products pay; measured on a CPU
_BLOCK = 32  # output rows of one product with a banded matrix: its zeros outside the band are left out


def conv_of_resized(x: Tensor, weight: Tensor, size: Size, *, align_corners: bool) -> Tensor:
    """Return `conv2d(interpolate(x, size, "bilinear"), weight, padding=1)`.

    Args:
        size: height and width of the enlarged map, pixels.
        align_corners: as of `interpolate`.

    Shapes:
        x (B, I, h, w), weight (O, I, 3, 3) -> (B, O, H, W)
    """
    height, width = size_of(x)
    if size[0] * size[1] < _LEAST_ENLARGEMENT * height * width:
        if size != (height, width):
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
        return F.conv2d(x, weight, padding=1)
    return _conv_before_resize(x, weight, size, align_corners)


def _conv_before_resize(x: Tensor, weight: Tensor, size: Size, align_corners: bool) -> Tensor:
    batch, in_channels, height, width = x.shape
    channels = weight.shape[0]
    rows = x.permute(0, 2, 3, 1).reshape(-1, in_channels)  # (B*h*w, I)
    matrix = weight.permute(1, 2, 3, 0).reshape(in_channels, 9 * channels)
    taps = (rows @ matrix).view(batch, height, width, 3, 3, channels)  # the last three: row and column of the tap, O
    taps = taps.transpose(2, 3).reshape(batch, height * 3, width * 3 * channels)
    enlarged = _shift_and_resize(taps, height, size[0], align_corners)  # (B, H, w*3*O)
    enlarged = enlarged.view(batch, size[0], width * 3, channels)
    return _shift_and_resize(enlarged, width, size[1], align_corners).permute(0, 3, 1, 2)  # (B, O, H, W)


def _shift_and_resize(taps: Tensor, length: int, target: int, align_corners: bool) -> Tensor:
    """Resize along an axis of `length` positions with three taps each, shift every tap to its place and sum.

    Shapes:
        taps (..., length * 3, F) -> (..., target, F)
    """
    parts = []
    matrix = _matrix(length, target, align_corners, taps.device)
    for start in range(0, target, _BLOCK):
        stop = min(start + _BLOCK, target)
        first, last = _sources(start - 1, length, target)[0], _sources(stop, length, target)[1]
        band = slice(3 * first, 3 * (last + 1))
        parts.append(matrix[start:stop, band].to(taps.dtype) @ taps[..., band, :])
    return torch.cat(parts, dim=-2)


def _sources(position: int, length: int, target: int) -> tuple[int, int]:
    """Return bounds of the positions that an enlarged position is interpolated from, whatever align_corners is."""
    position = min(max(position, 0), target - 1)
    center = position * length / target
    return max(int(center) - 1, 0), min(int(center) + 2, length - 1)


@kept
def _matrix(length: int, target: int, align_corners: bool, device: torch.device) -> Tensor:
    """Return (target, length * 3): what each position and tap gives to each enlarged position, zeros outside."""
    identity = torch.eye(length, device=device)[None]
    weights = F.interpolate(identity, size=target, mode="linear", align_corners=align_corners)[0].T  # (target, length)
    padded = F.pad(weights, (0, 0, 1, 1))
    return torch.stack([padded[tap : tap + target] for tap in range(3)], dim=-1).flatten(1)
