"""Multi-scale deformable attention by `grid_sample`: the reference of the other forms, and what is exported."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def deform_attn_reference(
    value: Tensor, level_sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Compute `segcore.layers.deform_attn.op.deform_attn` with operations that torch and ONNX have.

    One level at a time, so that the samples of one level are in memory, not those of all.

    Shapes:
        value (B, S, M, D), locations (B, Q, M, L, P, 2), weights (B, Q, M, L, P) -> (B, Q, M*D) in value's type;
        locations and weights share a type, which is the type of the computation
    """
    num_heads = value.shape[2]
    grids = 2 * locations - 1
    output = None
    levels = value.split([height * width for height, width in level_sizes], dim=1)
    for index, (level, (height, width)) in enumerate(zip(levels, level_sizes, strict=True)):
        maps = rearrange(level.to(locations.dtype), "b (h w) m d -> (b m) d h w", h=height, w=width)
        grid = rearrange(grids[:, :, :, index], "b q m p xy -> (b m) q p xy")
        samples = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        weighted = samples * rearrange(weights[:, :, :, index], "b q m p -> (b m) 1 q p")
        total = weighted.sum(dim=-1)  # (B*M, D, Q)
        output = total if output is None else output + total
    assert output is not None
    return rearrange(output, "(b m) d q -> b q (m d)", m=num_heads).to(value.dtype)
