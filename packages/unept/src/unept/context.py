"""The context branch: a deformable encoder over the pyramid, and a decoder with one query per stride-8 pixel.

Paper section 3.2, unept/PAPER 3.4 to 3.7: https://arxiv.org/abs/2107.14209. Every layer normalizes after its residual
sum.

Shapes: B images, Q queries (Q = h*w, row-major), S tokens of all levels, C channels, M heads, D = C/M.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from segcore.layers.deform_attn.layer import DeformableAttention
from segcore.layers.deform_attn.points import reference_points
from segcore.layers.kept_by_size import kept_by_size
from unept.recipes import UNEPTModel

Sizes = tuple[tuple[int, int], ...]
"""Height and width of every map, pixels of the map."""


def sine_positions(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Return the sine position map of one level (unept/PAPER 3.4): the y half of the channels, then the x half.

    Rows and columns count from one, without an offset of half a pixel, and are scaled to 2 pi.

    Shapes:
        (height * width, channels) float32, row-major; channels a multiple of 4
    """
    half = channels // 2
    has_float64 = device is None or device.type in ("cpu", "cuda")  # Apple's GPUs have none, Intel's not all
    exponent = 2 * (torch.arange(half, device=device if has_float64 else "cpu") // 2) / half
    wavelength = torch.pow(10000.0, exponent.double()).float().to(device)  # (C/2,), each twice: for sine and cosine
    waves = []
    for length in (height, width):
        place = (torch.arange(length, device=device) + 1).float() * (2 * math.pi / (length + 1e-6))
        angle = place[:, None] / wavelength  # (length, C/2)
        waves.append(torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=-1).flatten(1))
    y, x = waves[0][:, None].expand(-1, width, -1), waves[1][None].expand(height, -1, -1)
    return torch.cat([y, x], dim=-1).flatten(0, 1)


@kept_by_size
def level_positions(sizes: Sizes, channels: int, device: torch.device) -> Tensor:
    """Return the sine position maps of all levels, (S, channels)."""
    return torch.cat([sine_positions(height, width, channels, device) for height, width in sizes])


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

    def __init__(self, options: UNEPTModel) -> None:
        super().__init__()
        self.deform = DeformableAttention(options.width, options.levels, options.heads, options.points)

    def forward(self, query: Tensor, query_sizes: Sizes, pyramid: Pyramid) -> Tensor:
        """Return what the queries read from the pyramid."""
        reference = reference_points(query_sizes, device=query.device)
        return self.deform(query, reference, pyramid.tokens, pyramid.sizes)


class QuerySelfAttention(nn.Module):
    """Self-attention of the decoder's queries, which in the published form runs over the BATCH (unept/PAPER 7.1).

    The released code hands (B, Q, C) to an attention that takes its first axis as the sequence: every query pixel
    attends to the same pixel of the other images, and to no other pixel. With one image the softmax over one key is 1,
    and all that is left is x -> W_o (W_v x + b_v) + b_o. That linear form is used in evaluation, so that images and
    windows may be batched without influencing each other. `UNEPTModel.self_attention` chooses what training does.

    Shapes:
        (B, Q, C) -> (B, Q, C)
    """

    def __init__(self, options: UNEPTModel) -> None:
        super().__init__()
        self.heads, self.dropout, self.kind = options.heads, options.dropout, options.self_attention
        width = options.width
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


class FeedForward(nn.Sequential):
    """Linear, ReLU, dropout, linear: (..., C) -> (..., C)."""

    def __init__(self, options: UNEPTModel) -> None:
        width, hidden = options.width, options.feedforward
        super().__init__(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(options.dropout), nn.Linear(hidden, width))


class EncoderLayer(nn.Module):
    """The tokens attend to all levels of the pyramid they form (unept/PAPER 3.6).

    Shapes:
        pyramid.tokens (B, S, C), positions (S, C) or (B, S, C) -> tokens (B, S, C)
    """

    def __init__(self, options: UNEPTModel) -> None:
        super().__init__()
        width = options.width
        self.attention = PyramidAttention(options)
        self.attention_norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(options)
        self.feedforward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, pyramid: Pyramid, positions: Tensor) -> Tensor:
        tokens = pyramid.tokens
        read = self.attention(tokens + positions, pyramid.sizes, pyramid)  # values carry no position
        tokens = self.attention_norm(tokens + self.dropout(read))
        return self.feedforward_norm(tokens + self.dropout(self.feedforward(tokens)))


class DecoderLayer(nn.Module):
    """The queries attend to each other, then to the pyramid (unept/PAPER 3.7).

    Shapes:
        queries (B, Q, C), the pixels of a map of `size` -> (B, Q, C)
    """

    def __init__(self, options: UNEPTModel) -> None:
        super().__init__()
        width = options.width
        self.self_attention = QuerySelfAttention(options)
        self.self_norm = nn.LayerNorm(width)
        self.cross_attention = PyramidAttention(options)
        self.cross_norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(options)
        self.feedforward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, queries: Tensor, size: tuple[int, int], memory: Pyramid) -> Tensor:
        queries = self.self_norm(queries + self.dropout(self.self_attention(queries)))
        read = self.cross_attention(queries, (size,), memory)
        queries = self.cross_norm(queries + self.dropout(read))
        return self.feedforward_norm(queries + self.dropout(self.feedforward(queries)))


class ContextBranch(nn.Module):
    """Gives every stride-8 pixel its context: pyramid -> encoder -> memory, queries -> decoder -> dense map.

    Shapes:
        levels: L maps (B, C, h_l, w_l); queries (B, Q, C), the pixels of a map of `size` -> (B, Q, C)
    """

    def __init__(self, options: UNEPTModel) -> None:
        super().__init__()
        self.level_embedding = nn.Parameter(torch.empty(options.levels, options.width))
        self.encoder = _layers(EncoderLayer(options), options.encoder_layers)
        self.decoder = _layers(DecoderLayer(options), options.decoder_layers)
        self._initialize()

    def _initialize(self) -> None:
        """Start as published (unept/PAPER 3.8); biases keep the values that the layers of one stack share."""
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, PyramidAttention):
                module.deform.reset_parameters()
        nn.init.normal_(self.level_embedding)

    def forward(self, levels: Sequence[Tensor], queries: Tensor, size: tuple[int, int]) -> Tensor:
        sizes = tuple((level.shape[-2], level.shape[-1]) for level in levels)
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)  # (B, S, C)
        positions = self._positions(sizes, tokens)
        for layer in self.encoder:
            tokens = layer(Pyramid(tokens, sizes), positions)
        memory = Pyramid(tokens, sizes)
        for layer in self.decoder:
            queries = layer(queries, size, memory)
        return queries

    def _positions(self, sizes: tuple[tuple[int, int], ...], tokens: Tensor) -> Tensor:
        """Return the sine map of each level with the level's embedding added, (S, C)."""
        lengths = [height * width for height, width in sizes]
        embedding = [row.expand(length, -1) for row, length in zip(self.level_embedding, lengths, strict=True)]
        waves = level_positions(sizes, tokens.shape[-1], tokens.device)
        return waves.to(self.level_embedding.dtype) + torch.cat(embedding)


def _layers(layer: nn.Module, count: int) -> nn.ModuleList:
    """Return copies of a layer: as published, they start with the same biases."""
    return nn.ModuleList(copy.deepcopy(layer) for _ in range(count))
