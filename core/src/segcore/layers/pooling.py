"""Adaptive mean pooling in graphs of any size: as torch's, and in exported programs as two matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def adaptive_mean(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the means over the windows of `adaptive_avg_pool2d`.

    ONNX has no such operator for sizes that are known only when it runs. While a network is exported, rows and columns
    are therefore averaged by a matrix each: the same up to rounding.

    Shapes:
        (B, C, h, w) -> (B, C, *size)
    """
    if not torch.compiler.is_exporting():
        return F.adaptive_avg_pool2d(x, size)
    rows, columns = (_shares(length, cells, x) for length, cells in zip(x.shape[-2:], size, strict=True))
    return rows @ x @ columns.transpose(0, 1)


def _shares(length: int, cells: int, like: Tensor) -> Tensor:
    """Return the share of each place in the mean of each cell: cell i covers floor(i n / m) to ceil((i + 1) n / m).

    Shapes:
        -> (cells, length)
    """
    place = torch.arange(length, device=like.device)
    cell = torch.arange(cells, device=like.device)[:, None]
    start = torch.div(cell * length, cells, rounding_mode="floor")
    stop = torch.div((cell + 1) * length + cells - 1, cells, rounding_mode="floor")
    return ((place >= start) & (place < stop)).to(like.dtype) / (stop - start).to(like.dtype)
