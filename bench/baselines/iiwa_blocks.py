"""The straightforward form of IIWA's blocks: attention written out, one image at a time where the definition has one.

Written from iiwa/PAPER 3 as a baseline: scores, softmax and sums as separate steps, windows cut and put back
around every attention, positions rebuilt in every call, the matching solved image by image with a copy to the CPU and
back, Swin's shift mask rebuilt in every block. Weights are those of the network; the results are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from inspect import unwrap
from typing import TypeVar

import torch
from einops import rearrange
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from iiwa.attention import (
    CrossIIWA,
    Memory,
    SelfIIWA,
    WindowBlock,
    pad_to_windows,
    sine_position,
    spread_tokens,
    to_windows,
    window_grid,
    window_means,
)
from iiwa.neck import CrossFusion
from segcore.backbones import swin
from segcore.layers.linear import OneDnnLinear

Module = TypeVar("Module", bound=nn.Module)
_computed_position = unwrap(sine_position)  # without what is kept from earlier calls


def straightforward(model: Module) -> Module:
    """Return a copy of a network whose blocks compute in the straightforward form, with the same weights."""
    return _replaced(model, {**_FORMS, OneDnnLinear: nn.Linear})


def with_plain_linear(model: Module) -> Module:
    """Return a copy of a network whose blocks are ours and whose linear layers are torch's."""
    return _replaced(model, {OneDnnLinear: nn.Linear})


def _replaced(model: Module, forms: Mapping[type[nn.Module], type[nn.Module]]) -> Module:
    model = deepcopy(model)
    for module in model.modules():
        module.__class__ = forms.get(type(module), type(module))
    return model


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Softmax attention in separate steps: (..., N, D) each -> (..., N, D)."""
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = q @ k.transpose(-2, -1)
    if bias is not None:
        scores = scores + bias
    return scores.softmax(dim=-1) @ v


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(..., N, M * D) -> (..., M, N, D)."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def join_heads(x: Tensor) -> Tensor:
    """(..., M, N, D) -> (..., N, M * D)."""
    return x.transpose(-3, -2).flatten(-2)


def from_windows(windows: Tensor, grid: tuple[int, int], window: tuple[int, int]) -> Tensor:
    """(B, n, N, C) -> (B, H, W, C)."""
    return rearrange(windows, "b (gh gw) (wh ww) c -> b (gh wh) (gw ww) c", gh=grid[0], wh=window[0]).contiguous()


class _PlainBlock(WindowBlock):
    def _inside(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        q, k, v = (split_heads(part, self.heads) for part in (q, k, v))  # (B, n, M, N, D)
        return x + from_windows(join_heads(attend(q, k, v, self.bias.get_bias())), grid, self.window)

    def _between(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        q, k, v = (split_heads(part, self.heads) for part in (q, k, v))
        out = join_heads(attend(q, k, v))
        return spread_tokens(out, grid, (grid[0] * self.window[0], grid[1] * self.window[1]))

    def _placed(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        return tokens + _computed_position(*grid, tokens.shape[-1], tokens.device)


class PlainSelfIIWA(_PlainBlock, SelfIIWA):
    """Self-IIWA, iiwa/PAPER 3.3."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        grid = window_grid(height, width, self.window)
        x = pad_to_windows(x, self.window)
        q, k, v = self.intra_qkv(to_windows(x, self.window)).chunk(3, dim=-1)
        x = self._inside(x, q, k, v, grid)
        x = x + self.intra_proj(x)
        q, k, v = self.inter_qkv(self._placed(window_means(x, self.window), grid)).chunk(3, dim=-1)
        x = x + self._between(q, k, v, grid)
        x = x + self.inter_proj(x)
        return self._finish(x, (height, width))


class PlainCrossIIWA(_PlainBlock, CrossIIWA):
    """MS-cross-IIWA, iiwa/PAPER 3.5, matched image by image."""

    def forward(self, query: Tensor, memory: Memory) -> Tensor:
        height, width = query.shape[1:3]
        grid = window_grid(height, width, self.window)
        x = pad_to_windows(query, self.window)
        similarity = (window_means(x, self.window) @ memory.tokens.transpose(1, 2)).detach()
        windows, tokens = [], []
        for i in range(len(x)):
            columns = linear_sum_assignment(similarity[i].cpu().numpy(), maximize=True)[1]
            index = torch.from_numpy(columns).to(x.device)
            windows.append(memory.windows[i].index_select(0, index))
            tokens.append(memory.tokens[i].index_select(0, index))
        matched = torch.stack(windows)
        q = self.intra_q(to_windows(x, self.window))
        x = self._inside(x, q, self.intra_k(matched), self.intra_v(matched), grid)
        x = x + self.intra_proj(x)
        q = self.inter_q(self._placed(window_means(x, self.window), grid))
        key = self._placed(torch.stack(tokens), grid)
        x = x + self._between(q, self.inter_k(key), self.inter_v(key), grid)
        x = x + self.inter_proj(x)
        return self._finish(x, (height, width))


class PlainCrossFusion(CrossFusion):
    """Fusion block of out_type '2', iiwa/PAPER 3.6, with the scores of every window."""

    def _with_local_position(self, x: Tensor, window: tuple[int, int]) -> Tensor:
        return to_windows(x, window) + _computed_position(*window, x.shape[-1], x.device)

    def _pair_windows(self, query: Tensor, key: Tensor, grid: tuple[int, int], scale: float) -> Tensor:
        parts = (self.intra_q(query), self.intra_k(key), self.intra_v(key))
        q, k, v = (split_heads(part, self.heads) for part in parts)
        return from_windows(join_heads((q * scale @ k.transpose(-2, -1)) @ v), grid, self.query_window)

    def _between_windows(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], scale: float) -> Tensor:
        q, k, v = (split_heads(part, self.heads) for part in (q, k, v))
        size = (grid[0] * self.query_window[0], grid[1] * self.query_window[1])
        return spread_tokens(join_heads(attend(q, k, v, scale=scale)), grid, size)


class PlainWindowAttention(swin.WindowAttention):
    """Attention of a Swin block with written-out scores, iiwa/PAPER 2."""

    def _attend(self, qkv: Tensor, mask: Tensor | None) -> Tensor:
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        added = bias if mask is None else mask[:, None] + bias
        q, k, v = qkv.unbind(0)
        return attend(q, k, v, added)


_FORMS: dict[type[nn.Module], type[nn.Module]] = {
    SelfIIWA: PlainSelfIIWA,
    CrossIIWA: PlainCrossIIWA,
    CrossFusion: PlainCrossFusion,
    swin.WindowAttention: PlainWindowAttention,
}
