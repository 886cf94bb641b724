"""Tokens of maps: their layout and positions, what they read from one another, their MLP (ecfd/PAPER 3.1 to 3.5).

Also what the ablation has in place of RCE and of the blocks (ecfd/PAPER 3.10).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecfd.recipes import ECFDModel
from segcore.layers.deform_attn.layer import DeformableAttention
from segcore.layers.deform_attn.points import reference_points
from segcore.layers.kept_by_size import KeptBySize
from segcore.segmentor import Size, resize, size_of

_SINGLE_STREAM_MLP_RATIO = 0.25  # whatever the configuration says, as published


def to_tokens(maps: Sequence[Tensor]) -> Tensor:
    """Concatenate maps (B, C, h_i, w_i), each row-major: (B, S, C), S = the sum of h_i * w_i."""
    rows = [level.flatten(2).transpose(1, 2) for level in maps]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)


def to_maps(tokens: Tensor, sizes: Sequence[Size]) -> list[Tensor]:
    """Split tokens (B, S, C) into views (B, C, h_i, w_i), whose channels lie side by side in memory."""
    parts = tokens.split([height * width for height, width in sizes], dim=1)
    return [part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]


class PositionGrid(KeptBySize):
    """Learnt position of every place: a grid as fine as level 1 of the training crop, resized to the tokens' map.

    Args:
        grid: height and width of the grid: a quarter of the training crop (`pretrain_img_size` / `patch_size`).
        channels: E.

    Shapes:
        height and width of a map -> (1, h * w, E)
    """

    def __init__(self, grid: Size, channels: int) -> None:
        super().__init__()
        self.grid = grid
        self.embedding = nn.Parameter(torch.zeros(1, 1 + grid[0] * grid[1], channels))  # row 0 is never used

    @property
    def source(self) -> Tensor:
        return self.embedding

    def compute(self, height: int, width: int) -> Tensor:
        """Resize the grid, bicubic without antialias."""
        maps = self.embedding[:, 1:].transpose(1, 2).unflatten(2, self.grid)  # (1, E, g_h, g_w)
        if (height, width) != self.grid:
            maps = F.interpolate(maps, size=(height, width), mode="bicubic", align_corners=False)
        return maps.flatten(2).transpose(1, 2)


def token_norm(options: ECFDModel) -> nn.LayerNorm:
    """Return the layer norm of all tokens of the head."""
    return nn.LayerNorm(options.embed_dim, eps=1e-6)


class Reader(nn.Module):
    """Tokens that read the maps of other tokens: deformable attention, with a layer norm before either.

    Args:
        options: width, heads and samples.
        levels: maps that are read.
    """

    def __init__(self, options: ECFDModel, levels: int) -> None:
        super().__init__()
        self.query_norm = token_norm(options)
        self.feature_norm = token_norm(options)
        self.attention = DeformableAttention(
            options.embed_dim, levels, options.heads, options.points, options.value_ratio
        )

    def read(self, queries: Tensor, sizes: Sequence[Size], features: Tensor, feature_sizes: Sequence[Size]) -> Tensor:
        """Return what tokens (B, Q, E) of the maps of `sizes` read from tokens (B, S, E) of other maps: (B, Q, E)."""
        reference = reference_points(tuple(sizes), device=queries.device)
        return self.attention(self.query_norm(queries), reference, self.feature_norm(features), feature_sizes)


class TokenMLP(nn.Module):
    """MLP with a depthwise 3x3 convolution between its layers: one kernel for all maps, each with a border of its own.

    Shapes:
        tokens (B, S, E) of the maps of `sizes` -> (B, S, E)
    """

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        width = int(channels * ratio)
        self.fc1 = nn.Linear(channels, width)
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.fc2 = nn.Linear(width, channels)

    def forward(self, tokens: Tensor, sizes: Sequence[Size]) -> Tensor:
        # views on the tokens are maps in channels_last, which the convolution takes and gives without a transposition
        maps = [self.conv(x) for x in to_maps(self.fc1(tokens), sizes)]
        return self.fc2(F.gelu(to_tokens(maps)))


class SingleStreamFusion(Reader):
    """Tokens of one or three maps read themselves: T + MLP(LN(T + attention(T))), for the strategies of the ablation.

    The residual starts from the block's input, so the attention reaches the output through the MLP only: as published.

    Shapes:
        tokens (B, S, E) of the maps of `sizes` -> tokens
    """

    def __init__(self, options: ECFDModel, levels: int) -> None:
        super().__init__(options, levels)
        self.mlp_norm = token_norm(options)
        self.mlp = TokenMLP(options.embed_dim, _SINGLE_STREAM_MLP_RATIO)

    def forward(self, tokens: Tensor, sizes: Sequence[Size]) -> Tensor:
        read = self.read(tokens, sizes, tokens, sizes)
        return tokens + self.mlp(self.mlp_norm(tokens + read), sizes)


class PlainEmbedding(nn.Module):
    """In place of RCE: level 4 alone, projected and resized to level 3 (ECFDPatch4 and ECFDGeneral).

    Shapes:
        three maps, the last one (B, in_channels, h_4, w_4) -> (B, out_channels, h_3, w_3)
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, second: Tensor, third: Tensor, fourth: Tensor) -> Tensor:
        return resize(self.project(fourth), size_of(third))
