"""The operations of UN-EPT: attention to the pyramid, self-attention of the queries, and the shift along directions.

Shapes: B images, Q queries (Q = h*w, row-major), S tokens of all levels, C channels, M heads, D = C/M.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from segcore.layers.deform_attn.layer import DeformableAttention
from unept.positions import Sizes, reference_points

NUM_DIRECTIONS = 8
DIRECTIONS = ((0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1))
"""(dy, dx) of the eight direction bins, pixels: bin 0 points west, 2 north (up), 4 east, 6 south (unept/PAPER 4)."""


class Pyramid(NamedTuple):
    """The tokens of all levels, and the levels' sizes.

    Shapes:
        tokens (B, S, C), levels one after the other, each row-major
    """

    tokens: Tensor
    sizes: Sizes


class PyramidAttention(nn.Module):
    """Multi-scale deformable attention of maps of queries to the pyramid (paper, section 3.2; unept/PAPER 3.5).

    Core's layer, with each query's own pixel center as its reference point in all levels.

    Shapes:
        query (B, Q, C), the pixels of one or several maps of `query_sizes` -> (B, Q, C)
    """

    def __init__(self, width: int, levels: int, heads: int, points: int) -> None:
        super().__init__()
        self.deform = DeformableAttention(width, levels, heads, points)

    def forward(self, query: Tensor, query_sizes: Sizes, pyramid: Pyramid) -> Tensor:
        """Return what the queries read from the pyramid."""
        reference = reference_points(query_sizes, query.device)
        return self.deform(query, reference, pyramid.tokens, pyramid.sizes)


class QuerySelfAttention(nn.Module):
    """Self-attention of the decoder's queries, which in the published form runs over the BATCH (unept/PAPER 7.1).

    The released code hands (B, Q, C) to an attention that takes its first axis as the sequence: every query pixel
    attends to the same pixel of the other images, and to no other pixel. With one image the softmax over one key is 1,
    and all that is left is x -> W_o (W_v x + b_v) + b_o. That linear form is used in evaluation, so that images and
    windows may be batched without influencing each other.

    Args:
        dropout: of the attention probabilities in training.
        kind: see `UNEPTModel.self_attention`.

    Shapes:
        (B, Q, C) -> (B, Q, C)
    """

    def __init__(self, width: int, heads: int, dropout: float, kind: Literal["batch", "value", "pixels"]) -> None:
        super().__init__()
        self.heads, self.dropout, self.kind = heads, dropout, kind
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))  # queries, keys, values
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "pixels":
            return self._attend(x, "b q (part m d) -> part b m q d", "b m q d -> b q (m d)")
        if self.kind == "batch" and self.training:
            return self._attend(x, "b q (part m d) -> part q m b d", "q m b d -> b q (m d)")
        return self._value_only(x)

    def _attend(self, x: Tensor, split: str, join: str) -> Tensor:
        """Attend along one axis of x; the patterns say which."""
        projected = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = rearrange(projected, split, part=3, m=self.heads)
        dropout = self.dropout if self.training else 0.0
        return self.out_proj(rearrange(F.scaled_dot_product_attention(query, key, value, dropout_p=dropout), join))

    def _value_only(self, x: Tensor) -> Tensor:
        """Apply the value and output projections as one matrix: C^3 products to save Q * C^2."""
        value_weight, value_bias = self.in_proj_weight.chunk(3)[2], self.in_proj_bias.chunk(3)[2]
        weight = self.out_proj.weight @ value_weight
        return F.linear(x, weight, F.linear(value_bias, self.out_proj.weight, self.out_proj.bias))


def shifted_pixels(is_moved: Tensor, direction: Tensor, directions: Tensor) -> Tensor:
    """Return for every pixel the one a step away along its direction, clamped to the image; itself where not moved.

    Args:
        is_moved: bool, pixels that are shifted.
        direction: direction bins, int64.
        directions: `DIRECTIONS` on the device.

    Shapes:
        is_moved, direction (B, H, W); directions (8, 2) int64 -> (B, H, W) int64, indices y * W + x
    """
    height, width = direction.shape[-2:]
    step = directions[direction] * is_moved[..., None]  # (B, H, W, 2)
    y = torch.arange(height, device=direction.device)[:, None] + step[..., 0]
    x = torch.arange(width, device=direction.device) + step[..., 1]
    return y.clamp(0, height - 1) * width + x.clamp(0, width - 1)


def gather_pixels(values: Tensor, pixels: Tensor) -> Tensor:
    """Return the values at other pixels: out[b, c, y, x] = values[b, c] at pixels[b, y, x].

    Exact where the released code interpolates at whole coordinates with noise of 1e-5 (unept/PAPER 7.6).

    Shapes:
        values (B, C, H, W), pixels (B, H, W) int64, indices y * W + x -> (B, C, H, W)
    """
    index = pixels.flatten(1)[:, None].expand(-1, values.shape[1], -1)  # (B, C, H*W)
    return values.flatten(2).gather(2, index).view(values.shape)
