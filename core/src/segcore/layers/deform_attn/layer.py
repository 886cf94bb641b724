"""Multi-scale deformable attention as a layer: the projections around the operator `deform_attn`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcore.layers.deform_attn.op import deform_attn
from segcore.layers.deform_attn.points import sampling_locations


class DeformableAttention(nn.Module):
    """Each query reads a few learnt places around its reference point in every level, weighted by a joint softmax.

    Introduced by Deformable DETR (https://arxiv.org/abs/2010.04159); ecfd/PAPER 3.4, unept/PAPER 3.5. Tensor names are
    the published ones.

    Args:
        channels: C of queries, values and output.
        levels: number of feature maps (L).
        heads: number of heads (M).
        points: samples per head and level (P).
        value_ratio: width of the projected values over C (`deform_ratio` of ECFD; 1 in every published model).

    Shapes:
        query (B, Q, C); reference (B or 1, Q, L or 1, 2 or 4), 0-1 of the image; value (B, S, C), the levels'
        row-major maps concatenated -> (B, Q, C)

    Raises:
        ValueError: if the projected values do not divide into the heads.
    """

    def __init__(self, channels: int, levels: int, heads: int, points: int, value_ratio: float = 1.0) -> None:
        super().__init__()
        width = int(channels * value_ratio)
        if width % heads:
            raise ValueError(f"values of {width} channels do not divide into {heads} heads")
        self.levels, self.heads, self.points = levels, heads, points
        self.value_proj = nn.Linear(channels, width)
        self.sampling_offsets = nn.Linear(channels, heads * levels * points * 2)
        self.attention_weights = nn.Linear(channels, heads * levels * points)
        self.output_proj = nn.Linear(width, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with uniform weights, head m looking along the angle 2 pi m / M, point p at p + 1 pixels."""
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)  # (M, 2), (x, y)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        distances = torch.arange(1, self.points + 1)[:, None]
        offsets = (directions[:, None, None] * distances).expand(-1, self.levels, -1, -1)  # (M, L, P, 2)
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Tensor,
        reference: Tensor,
        value: Tensor,
        level_sizes: Sequence[tuple[int, int]],
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Return what the queries read, see the class.

        Args:
            level_sizes: height and width of every level, pixels.
            padding_mask: (B, S) bool, true where a value counts as zero.
        """
        projected = self.value_proj(value).unflatten(-1, (self.heads, -1))  # (B, S, M, D)
        if padding_mask is not None:
            projected = projected.masked_fill(padding_mask[..., None, None], 0.0)
        offsets, weights = self._places(query)
        locations = sampling_locations(reference, offsets, level_sizes)
        return self.output_proj(deform_attn(projected, level_sizes, locations, weights))

    def _places(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return offsets (B, Q, M, L, P, 2) in pixels and weights (B, Q, M, L, P), from one matrix product."""
        layers = (self.sampling_offsets, self.attention_weights)
        weight, bias = torch.cat([part.weight for part in layers]), torch.cat([part.bias for part in layers])
        both = F.linear(query, weight, bias)
        offsets, logits = both.split([part.out_features for part in layers], dim=-1)
        precision = torch.promote_types(logits.dtype, torch.float32)
        weights = logits.unflatten(-1, (self.heads, self.levels * self.points)).softmax(dim=-1, dtype=precision)
        shape = (self.heads, self.levels, self.points)
        return offsets.unflatten(-1, (*shape, 2)), weights.unflatten(-1, shape[1:])

    def published_macs(self, output: Tensor) -> int:
        """Return the cost of the two projections of the queries, which run as one product (`segcore.layers.count`)."""
        return output.numel() * (self.sampling_offsets.out_features + self.attention_weights.out_features)
