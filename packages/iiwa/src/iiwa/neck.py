"""The neck: cross-IIWA joins two adjacent levels at a time, top-down; iiwa/PAPER 3.6 and 3.8.

The fusion blocks are the released ones; their cascade (published class `Cascade_TRP`) is a reconstruction. B images,
C1 channels of the deeper level, C of the shallower one, M heads, D = C / M.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch.nn.functional as F
from einops import rearrange
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from iiwa.attention import pad_to_grid, sine_position, spread_tokens, to_windows, window_grid, window_means
from iiwa.recipes import IIWAModel
from segcore.layers.precision import full_precision, widened

Window = tuple[int, int]


class Fusion(nn.Module, ABC):
    """Cross-attention of a shallower level (query) with the deeper one (key, value, shortcut), in pairs of windows.

    Query window i looks at key window i only; windows look at each other through one pooled token each. Both levels are
    padded to the same number of windows. A subclass adds `shortcut`, from the deeper level's channels to C.

    Args:
        deep: channels of the deeper level.
        channels: C, of the shallower level and of the output; a multiple of 4 and of `heads`.
        key_window, query_window: height and width, pixels of their own level.
        dropout: after attentions and linear layers.

    Shapes:
        deeper map (B, C1, H1, W1), shallower map (B, C, H2, W2) -> (B, C, H2, W2)
    """

    shortcut: nn.Sequential

    def __init__(
        self, deep: int, channels: int, heads: int, key_window: Window, query_window: Window, dropout: float
    ) -> None:
        super().__init__()
        if channels % heads or channels % 4:
            raise ValueError(f"channels must be a multiple of 4 and of {heads} heads, got {channels}")
        self.heads = heads
        self.key_window, self.query_window = key_window, query_window
        self.intra_q = nn.Linear(channels, channels)
        self.intra_k, self.intra_v = nn.Linear(deep, channels), nn.Linear(deep, channels)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, deep: Tensor, shallow: Tensor) -> Tensor:
        key, query = deep.permute(0, 2, 3, 1), shallow.permute(0, 2, 3, 1)  # (B, H, W, C)
        height, width = query.shape[1:3]
        grids = window_grid(key.shape[1], key.shape[2], self.key_window), window_grid(height, width, self.query_window)
        grid = max(grids[0][0], grids[1][0]), max(grids[0][1], grids[1][1])
        fused = self._fuse(pad_to_grid(key, self.key_window, grid), pad_to_grid(query, self.query_window, grid), grid)
        shortcut = spread_tokens(self.shortcut(key).flatten(1, 2), (key.shape[1], key.shape[2]), (height, width))
        output = self._output(shortcut, widened(self.norm1, fused[:, :height, :width]))
        return output.to(self.norm2.weight.dtype).permute(0, 3, 1, 2)  # of a network made half, the sums were float32

    @abstractmethod
    def _fuse(self, key: Tensor, query: Tensor, grid: tuple[int, int]) -> Tensor:
        """Padded maps (B, n_h * w_h, n_w * w_w, C) -> fused map of the query's size."""

    @abstractmethod
    def _output(self, shortcut: Tensor, fused: Tensor) -> Tensor:
        """Join the two: (B, H2, W2, C) each."""

    def _pair_windows(self, query: Tensor, key: Tensor, grid: tuple[int, int], scale: float) -> Tensor:
        """Attend from every query window to the key window of the same number, without a softmax: (q k^T) v.

        Shapes:
            windows (B, n, N_q, C) and (B, n, N_k, C1) -> map (B, H, W, C) float32
        """
        pattern = "b n p (m d) -> (b n) m p d"
        parts = (self.intra_q(query), self.intra_k(key), self.intra_v(key))
        with full_precision(query.device.type):  # unbounded sums, which float16 cannot hold
            q, k, v = (rearrange(part.float(), pattern, m=self.heads) for part in parts)
            state = k.transpose(2, 3) @ v  # no softmax: (q k^T) v = q (k^T v), (B * n, M, D, D)
            out = q @ (scale * state)
        pattern = "(b gh gw) m (wh ww) d -> b (gh wh) (gw ww) (m d)"
        return rearrange(out, pattern, gh=grid[0], gw=grid[1], wh=self.query_window[0])

    def _between_windows(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], scale: float) -> Tensor:
        """Softmax attention between windows, one token each: (B, n, C) -> map of the query's padded size."""
        q, k, v = (rearrange(part, "b n (m d) -> b m n d", m=self.heads) for part in (q, k, v))
        out = rearrange(F.scaled_dot_product_attention(q, k, v, scale=scale), "b m n d -> b n (m d)")
        return spread_tokens(out, grid, (grid[0] * self.query_window[0], grid[1] * self.query_window[1]))


def _initialize(fusion: Fusion) -> None:
    for module in fusion.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight)
            nn.init.zeros_(module.bias)


class CrossFusion(Fusion):
    """Cross-IIWA, out_type '2': the block that every released config selects (iiwa/PAPER 3.6, `TransFusion2`).

    The scale is 1 in both attentions, as released (an exponent written as -0).
    """

    def __init__(
        self, deep: int, channels: int, heads: int, key_window: Window, query_window: Window, dropout: float = 0.1
    ) -> None:
        super().__init__(deep, channels, heads, key_window, query_window, dropout)
        self.shortcut = nn.Sequential(nn.Linear(deep, channels), nn.LayerNorm(channels))
        self.intra_proj = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, channels))
        self.inter_proj = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, channels))
        self.query_pool, self.key_pool = nn.Linear(channels, channels), nn.Linear(deep, channels)
        self.inter_q, self.inter_k, self.inter_v = (nn.Linear(channels, channels) for _ in range(3))
        _initialize(self)
        for convolution in (self.query_pool, self.key_pool):  # 1x1 convolutions of the pooled maps
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")

    def _fuse(self, key: Tensor, query: Tensor, grid: tuple[int, int]) -> Tensor:
        windows = (self._with_local_position(query, self.query_window), self._with_local_position(key, self.key_window))
        y = query + self.dropout(self._pair_windows(*windows, grid, scale=1.0))
        y = y + self.dropout(widened(self.intra_proj, y))
        y = y + self.dropout(self._inter(key, y, grid))
        return y + self.dropout(widened(self.inter_proj, y))

    def _with_local_position(self, x: Tensor, window: Window) -> Tensor:
        """Cut into windows and add to each the positions inside it: (B, H, W, C) -> (B, n, N, C)."""
        return to_windows(x, window) + sine_position(*window, x.shape[-1], x.device).to(x.dtype)

    def _inter(self, key: Tensor, y: Tensor, grid: tuple[int, int]) -> Tensor:
        with full_precision(y.device.type):  # scores without a scale: a few tokens, but large numbers
            query_tokens = widened(self.query_pool, window_means(y.float(), self.query_window))  # (B, n, C)
            key_tokens = widened(self.key_pool, window_means(key.float(), self.key_window))
            position = sine_position(*grid, y.shape[-1], y.device)
            tokens = key_tokens + position
            q = widened(self.inter_q, query_tokens + position)
            k, v = widened(self.inter_k, tokens), widened(self.inter_v, tokens)
            return self._between_windows(q, k, v, grid, scale=1.0)

    def _output(self, shortcut: Tensor, fused: Tensor) -> Tensor:
        return widened(self.norm2, shortcut + fused)


class PlainFusion(Fusion):
    """Out_type '1', the alternative of an early revision (iiwa/PAPER 3.6, `TransFusion`).

    No positions, no residual with the shallower level, an MLP at the end. Levels of incomplete windows, which the
    release refuses, are padded.
    """

    def __init__(
        self, deep: int, channels: int, heads: int, key_window: Window, query_window: Window, dropout: float = 0.1
    ) -> None:
        super().__init__(deep, channels, heads, key_window, query_window, dropout)
        self.scale = (channels // heads) ** -0.5
        self.shortcut = nn.Sequential(nn.Linear(deep, channels), nn.LayerNorm(channels), nn.GELU())
        self.inter_q = nn.Linear(channels, channels)
        self.inter_k, self.inter_v = nn.Linear(deep, channels), nn.Linear(deep, channels)
        self.mlp = Mlp(channels, 2 * channels, drop=dropout)
        _initialize(self)

    def _fuse(self, key: Tensor, query: Tensor, grid: tuple[int, int]) -> Tensor:
        windows = to_windows(query, self.query_window), to_windows(key, self.key_window)
        inside = self._pair_windows(*windows, grid, self.scale)
        q = self.inter_q(window_means(query, self.query_window))
        tokens = window_means(key, self.key_window)
        return inside + self._between_windows(q, self.inter_k(tokens), self.inter_v(tokens), grid, self.scale)

    def _output(self, shortcut: Tensor, fused: Tensor) -> Tensor:
        return widened(self.norm2, shortcut + widened(self.mlp, fused))


FUSIONS: dict[str, type[CrossFusion] | type[PlainFusion]] = {"1": PlainFusion, "2": CrossFusion}
"""By the published name of the block, out_type."""


class CascadeNeck(nn.Module):
    """Three fusions from the deepest pair of levels to the shallowest (iiwa/PAPER 3.8, a reconstruction).

    y3 = F3(x4, x3), y2 = F2(y3, x2), y1 = F1(y2, x1); a further round takes y3, y2, y1 in place of x3, x2, x1.

    Args:
        channels: of the four levels, fine to coarse.
        strides: of the four levels; the query window is the key window times the stride ratio, so that both levels
            have the same grid of windows.

    Shapes:
        four maps (B, C_i, h_i, w_i) -> (y1, y2, y3), the shapes of the first three
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], options: IIWAModel) -> None:
        super().__init__()
        block = FUSIONS[options.fusion]
        height, width = options.fusion_window

        def fuse(level: int) -> nn.ModuleList:
            ratio = strides[level + 1] // strides[level]
            windows = (height, width), (height * ratio, width * ratio)  # key, query
            sizes = channels[level + 1], channels[level], options.fusion_heads[level]
            rounds = range(options.fusion_rounds)
            return nn.ModuleList(block(*sizes, *windows, options.fusion_dropout) for _ in rounds)

        self.fuse1, self.fuse2, self.fuse3 = fuse(0), fuse(1), fuse(2)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        y1, y2, y3, x4 = levels
        for fuse1, fuse2, fuse3 in zip(self.fuse1, self.fuse2, self.fuse3, strict=True):
            y3 = fuse3(x4, y3)
            y2 = fuse2(y3, y2)
            y1 = fuse1(y2, y1)
        return y1, y2, y3
