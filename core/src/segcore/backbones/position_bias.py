"""The learnt relative position bias of EfficientFormerV2, for any input size (cgrseg/PAPER 2.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from segcore.layers.kept_by_size import KeptBySize


class PositionBias(KeptBySize):
    """Bias B (heads, queries, keys) on attention logits, learnt on the grid of a 512x512 image.

    The base matrix is M[i, j] = table[|y_i * stride - y_j|, |x_i * stride - x_j|] over raster-ordered queries i and
    keys j of the base grid. For another grid the matrix itself is resized, bicubic, as the published models do: a row
    then mixes grid rows, without a geometric meaning, but their weights were trained and tested that way.

    Args:
        num_heads: attention heads.
        grid: side of the key grid at 512x512.
        stride: keys per query along an axis, 2 in the attention that halves the resolution.
    """

    def __init__(self, num_heads: int, grid: int, stride: int = 1) -> None:
        super().__init__()
        self.grid = grid
        self.stride = stride
        self.table = nn.Parameter(torch.zeros(num_heads, grid * grid))  # row-major by (|dy|, |dx|)

    @property
    def source(self) -> Tensor:
        return self.table

    def index(self) -> Tensor:
        """Return the place in the table of every pair of the base grid: (queries, keys) int64."""
        keys = torch.arange(self.grid, device=self.table.device)
        distance = (keys[:: self.stride, None] - keys).abs()  # (R/stride, R)
        rows = distance[:, None, :, None] * self.grid
        return rearrange(rows + distance[None, :, None, :], "y x v u -> (y x) (v u)")

    def compute(self, height: int, width: int) -> Tensor:
        """Return B for a key grid of height x width: (heads, queries, keys)."""
        num_heads = self.table.shape[0]
        num_queries = (self.grid // self.stride) ** 2
        matrix = self.table.index_select(1, self.index().flatten()).reshape(num_heads, num_queries, self.grid**2)
        queries = -(-height // self.stride) * -(-width // self.stride)
        if (queries, height * width) == (num_queries, self.grid**2):
            return matrix  # 512x512, and every grid with as many tokens: the resize is the identity
        size = (queries, height * width)
        return F.interpolate(matrix[None], size=size, mode="bicubic", align_corners=False)[0]
