"""Cross-information fusion: CICM, SICM and the blocks that alternate them (ecfd/PAPER 3.5 and 3.10).

Context tokens X come from level 3, spatial tokens S from levels 2, 3 and 4, all E channels wide.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecfd.tokens import Size, reference_points, to_maps, to_tokens
from segcore.layers.deform_attn.layer import DeformableAttention

_SINGLE_STREAM_MLP_RATIO = 0.25  # whatever the configuration says, as published


def _norm(channels: int) -> nn.LayerNorm:
    return nn.LayerNorm(channels, eps=1e-6)


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


class CICM(nn.Module):
    """Context queries read the three spatial levels: X + gamma * attention(X, S); gamma starts at zero.

    Shapes:
        context (B, h_3 * w_3, E), spatial (B, S, E) -> context
    """

    def __init__(self, channels: int, heads: int, points: int, value_ratio: float) -> None:
        super().__init__()
        self.query_norm = _norm(channels)
        self.feature_norm = _norm(channels)
        self.attention = DeformableAttention(channels, 3, heads, points, value_ratio)
        self.gamma = nn.Parameter(torch.zeros(channels))

    def forward(self, context: Tensor, spatial: Tensor, sizes: Sequence[Size]) -> Tensor:
        reference = reference_points(sizes[1:2], context.device)
        read = self.attention(self.query_norm(context), reference, self.feature_norm(spatial), sizes)
        return context + self.gamma * read


class SICM(nn.Module):
    """Spatial queries read the context map, then an MLP; both are residual, without gamma.

    Shapes:
        spatial (B, S, E), context (B, h_3 * w_3, E) -> spatial
    """

    def __init__(self, channels: int, heads: int, points: int, value_ratio: float, mlp_ratio: float) -> None:
        super().__init__()
        self.query_norm = _norm(channels)
        self.feature_norm = _norm(channels)
        self.attention = DeformableAttention(channels, 1, heads, points, value_ratio)
        self.mlp_norm = _norm(channels)
        self.mlp = TokenMLP(channels, mlp_ratio)

    def forward(self, spatial: Tensor, context: Tensor, sizes: Sequence[Size]) -> Tensor:
        reference = reference_points(sizes, spatial.device)
        read = self.attention(self.query_norm(spatial), reference, self.feature_norm(context), sizes[1:2])
        spatial = spatial + read
        return spatial + self.mlp(self.mlp_norm(spatial), sizes)


class CrossFusionBlock(nn.Module):
    """CFB: new context from the spatial tokens (CICM), then new spatial tokens from the NEW context (SICM)."""

    def __init__(self, channels: int, heads: int, points: int, value_ratio: float, mlp_ratio: float) -> None:
        super().__init__()
        self.cicm = CICM(channels, heads, points, value_ratio)
        self.sicm = SICM(channels, heads, points, value_ratio, mlp_ratio)

    def forward(self, spatial: Tensor, context: Tensor, sizes: Sequence[Size]) -> tuple[Tensor, Tensor]:
        """Return the new spatial and context tokens; `sizes` are those of levels 2, 3 and 4."""
        context = self.cicm(context, spatial, sizes)
        return self.sicm(spatial, context, sizes), context


class SingleStreamFusion(nn.Module):
    """Tokens of one or three maps read themselves: T + MLP(LN(T + attention(T))), for the variants of the ablation.

    The residual starts from the block's input, so the attention reaches the output through the MLP only: as published.

    Shapes:
        tokens (B, S, E) of the maps of `sizes` -> tokens
    """

    def __init__(self, channels: int, levels: int, heads: int, points: int, value_ratio: float) -> None:
        super().__init__()
        self.query_norm = _norm(channels)
        self.feature_norm = _norm(channels)
        self.attention = DeformableAttention(channels, levels, heads, points, value_ratio)
        self.mlp_norm = _norm(channels)
        self.mlp = TokenMLP(channels, _SINGLE_STREAM_MLP_RATIO)

    def forward(self, tokens: Tensor, sizes: Sequence[Size]) -> Tensor:
        reference = reference_points(sizes, tokens.device)
        read = self.attention(self.query_norm(tokens), reference, self.feature_norm(tokens), sizes)
        return tokens + self.mlp(self.mlp_norm(tokens + read), sizes)
