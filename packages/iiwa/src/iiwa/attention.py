"""Intra- and inter-window attention in both forms of the decoder, and the windows it works on; iiwa/PAPER 3.1 to 3.5.

A block attends twice, each time with a residual of its own: inside every window (intra-window, local context), then
between windows, one pooled token each (inter-window, global context). In self-IIWA a map attends to itself, in
cross-IIWA every window to the memory window that it is matched with.

Maps are channels-last, (B, H, W, C). Windows are numbered row-major, image by image. Padding is zeros at bottom and
right, never masked: it takes part in attention and in the mean of its window, as published (iiwa/PAPER 7.5). B images,
C channels, M heads, D = C / M, n windows of N = w_h * w_w positions. Published tensor names are in `names.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from timm.layers.drop import DropPath
from timm.layers.mlp import Mlp
from timm.layers.pos_embed_rel import RelPosBias
from torch import Tensor, nn

from iiwa.matching.op import match_windows
from segcore.layers.kept_by_size import kept_by_size
from segcore.layers.precision import full_precision

_TEMPERATURE = 10_000
_EPSILON = 1e-5


def window_grid(height: int, width: int, window: tuple[int, int]) -> tuple[int, int]:
    """Return how many windows a map needs, (rows, columns)."""
    return -(-height // window[0]), -(-width // window[1])


def pad_to_grid(x: Tensor, window: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Zero-pad (B, H, W, C) at bottom and right to `grid` windows, (B, grid * window, C)."""
    bottom, right = grid[0] * window[0] - x.shape[1], grid[1] * window[1] - x.shape[2]
    is_padded = torch.compiler.is_exporting() or bottom or right  # other sizes of an exported program may need it
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if is_padded else x


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


@kept_by_size
def sine_position(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Return the sine table of a map: half the channels tell the row, half the column (iiwa/PAPER 3.2).

    Args:
        channels: a multiple of 4.

    Shapes:
        (height * width, channels) float32, rows of the map one after the other
    """
    half = channels // 2
    exponent = 2 * torch.arange(half, device=device).div(2, rounding_mode="floor") / half
    period = _TEMPERATURE**exponent  # (half,)
    axes = []
    for length in (height, width):
        place = (torch.arange(length, device=device) + 1).float()
        # torch cannot save a float made of a size, but one made of a tensor
        extent = (place[-1] if torch.compiler.is_exporting() else length) + _EPSILON
        place = place / extent * (2 * math.pi)
        angle = place[:, None] / period  # (length, half)
        axes.append(torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1))
    y, x = axes
    both = [y[:, None].expand(height, width, half), x[None].expand(height, width, half)]
    return torch.cat(both, dim=2).flatten(0, 1)


class Memory(NamedTuple):
    """Windows of all memory levels, fine to coarse, and their means.

    Shapes:
        windows (B, n_k, N, C), tokens (B, n_k, C)
    """

    windows: Tensor
    tokens: Tensor


def prepare_memory(levels: Sequence[Tensor], window: tuple[int, int]) -> Memory:
    """Cut maps (B, h_i, w_i, C) into windows and pool each one, once for all blocks (iiwa/PAPER 3.4)."""
    padded = [pad_to_windows(level, window) for level in levels]
    windows = torch.cat([to_windows(level, window) for level in padded], dim=1)
    return Memory(windows, torch.cat([window_means(level, window) for level in padded], dim=1))


def match(query_tokens: Tensor, memory: Memory) -> Memory:
    """Give every query window a memory window of its own, with the largest sum of similarities (iiwa/PAPER 3.5.2).

    The similarity is the plain dot product of the pooled features: long vectors win, positions come later.

    Shapes:
        query_tokens (B, n_q, C) -> windows (B, n_q, N, C), tokens (B, n_q, C)
    """
    with torch.no_grad(), full_precision(query_tokens.device.type):  # bf16 would move 4-8 % of the pairs
        similarity = query_tokens.float() @ memory.tokens.float().transpose(1, 2)  # (B, n_q, n_k)
        assignment = match_windows(similarity)
    batch, count = memory.tokens.shape[:2]
    first = torch.arange(batch, device=assignment.device)[:, None] * count
    rows = (assignment + first).flatten()  # one gather for the whole batch
    return Memory(*(part.flatten(0, 1).index_select(0, rows).unflatten(0, (batch, -1)) for part in memory))


class WindowBlock(nn.Module):
    """What self-IIWA and cross-IIWA share: the second residual after each attention, the MLP and the norms.

    No projection follows an attention: in its place x + Linear(LN(x)). The output is normalized.

    Args:
        channels: C, a multiple of 4 and of `heads`.
        window: height and width of a window, feature pixels.
        mlp_ratio: hidden width of the MLP by C.
        attn_dropout: of the intra-window attention; the inter-window attention has none.
        dropout: after the linear layers.
        drop_path: probability that an image skips the MLP.
    """

    def __init__(
        self,
        channels: int,
        window: tuple[int, int],
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        attn_dropout: float = 0.0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if channels % heads or channels % 4:
            raise ValueError(f"channels must be a multiple of 4 and of {heads} heads, got {channels}")
        self.window = window
        self.heads = heads
        self.attn_dropout = attn_dropout
        self.bias = RelPosBias(window, heads)
        self.intra_proj = _projection(channels, dropout)
        self.inter_proj = _projection(channels, dropout)
        self.norm1 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, int(mlp_ratio * channels), drop=dropout)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)

    def _attend_inside(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        """Attend within every window: (B * n, M, N, D) each -> map (B, H, W, C)."""
        dropout = self.attn_dropout if self.training else 0.0
        bias = self.bias.get_bias().to(q.dtype)  # (1, M, N, N)
        out = F.scaled_dot_product_attention(q, k, v, bias, dropout_p=dropout)
        pattern = "(b gh gw) m (wh ww) d -> b (gh wh) (gw ww) (m d)"
        return rearrange(out, pattern, gh=grid[0], gw=grid[1], wh=self.window[0])

    def _attend_between(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        """Attend between windows, one token each, and spread the result: (B, n, C) each -> map (B, H, W, C)."""
        q, k, v = (rearrange(part, "b n (m d) -> b m n d", m=self.heads) for part in (q, k, v))
        out = rearrange(F.scaled_dot_product_attention(q, k, v), "b m n d -> b n (m d)")
        return spread_tokens(out, grid, (grid[0] * self.window[0], grid[1] * self.window[1]))

    def _with_position(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        return tokens + sine_position(*grid, tokens.shape[-1], tokens.device).to(tokens.dtype)

    def _finish(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Cut the padding; MLP and output norm."""
        x = x[:, : size[0], : size[1]]
        return self.norm2(x + self.drop_path(self.mlp(self.norm1(x))))


def _projection(channels: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, channels), nn.Dropout(dropout))


class SelfIIWA(WindowBlock):
    """Self-IIWA: a map attends to itself, inside its windows and between them (iiwa/PAPER 3.3).

    Shapes:
        (B, H, W, C) -> (B, H, W, C)
    """

    def __init__(self, channels: int, window: tuple[int, int], heads: int, **rates: float) -> None:
        super().__init__(channels, window, heads, **rates)
        self.intra_qkv = nn.Linear(channels, 3 * channels)
        self.inter_qkv = nn.Linear(channels, 3 * channels)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        grid = window_grid(height, width, self.window)
        x = pad_to_windows(x, self.window)
        x = x + self._intra(x, grid)
        x = x + self.intra_proj(x)
        tokens = self._with_position(window_means(x, self.window), grid)
        q, k, v = self.inter_qkv(tokens).chunk(3, dim=-1)
        x = x + self._attend_between(q, k, v, grid)
        x = x + self.inter_proj(x)
        return self._finish(x, (height, width))

    def _intra(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        pattern = "b (gh wh) (gw ww) (t m d) -> t (b gh gw) m (wh ww) d"
        wh, ww = self.window
        q, k, v = rearrange(self.intra_qkv(x), pattern, t=3, m=self.heads, wh=wh, ww=ww)
        return self._attend_inside(q, k, v, grid)


class CrossIIWA(WindowBlock):
    """Multi-scale cross-IIWA: each query window attends to the memory window it is matched with (iiwa/PAPER 3.5).

    A memory window may come from any level and place; its token takes the place of the query window in the inter-window
    attention.

    Shapes:
        query (B, H, W, C), memory windows of the same size -> (B, H, W, C)
    """

    def __init__(self, channels: int, window: tuple[int, int], heads: int, **rates: float) -> None:
        super().__init__(channels, window, heads, **rates)
        self.intra_q, self.intra_k, self.intra_v = (nn.Linear(channels, channels) for _ in range(3))
        self.inter_q, self.inter_k, self.inter_v = (nn.Linear(channels, channels) for _ in range(3))
        nn.init.zeros_(self.bias.relative_position_bias_table)

    def forward(self, query: Tensor, memory: Memory) -> Tensor:
        height, width = query.shape[1:3]
        grid = window_grid(height, width, self.window)
        x = pad_to_windows(query, self.window)
        matched = match(window_means(x, self.window), memory)
        x = x + self._intra(x, matched.windows, grid)
        x = x + self.intra_proj(x)
        q = self.inter_q(self._with_position(window_means(x, self.window), grid))
        tokens = self._with_position(matched.tokens, grid)
        x = x + self._attend_between(q, self.inter_k(tokens), self.inter_v(tokens), grid)
        x = x + self.inter_proj(x)
        return self._finish(x, (height, width))

    def _intra(self, x: Tensor, windows: Tensor, grid: tuple[int, int]) -> Tensor:
        """Query map (B, H, W, C) against its matched windows (B, n, N, C); keys are made after the match."""
        wh, ww = self.window
        split = "b (gh wh) (gw ww) (m d) -> (b gh gw) m (wh ww) d"
        q = rearrange(self.intra_q(x), split, m=self.heads, wh=wh, ww=ww)
        k = rearrange(self.intra_k(windows), "b n p (m d) -> (b n) m p d", m=self.heads)
        v = rearrange(self.intra_v(windows), "b n p (m d) -> (b n) m p d", m=self.heads)
        return self._attend_inside(q, k, v, grid)
