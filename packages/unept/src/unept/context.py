"""The context branch: a deformable encoder over the pyramid, and a decoder with one query per stride-8 pixel.

Paper section 3.2, unept/PAPER 3.4 to 3.7: https://arxiv.org/abs/2107.14209. Every layer normalizes after its residual
sum. Published tensor names are in `convert.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unept.ops import Pyramid, PyramidAttention, QuerySelfAttention
from unept.options import UNEPTModel
from unept.positions import level_positions


class FeedForward(nn.Sequential):
    """Linear, ReLU, dropout, linear: (..., C) -> (..., C)."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width))


class EncoderLayer(nn.Module):
    """The tokens attend to all levels of the pyramid they form (unept/PAPER 3.6).

    Shapes:
        pyramid.tokens (B, S, C), positions (S, C) or (B, S, C) -> tokens (B, S, C)
    """

    def __init__(self, options: UNEPTModel) -> None:
        super().__init__()
        width = options.width
        self.attention = PyramidAttention(width, options.levels, options.heads, options.points)
        self.attention_norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, options.feedforward, options.dropout)
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
        self.self_attention = QuerySelfAttention(width, options.heads, options.dropout, options.self_attention)
        self.self_norm = nn.LayerNorm(width)
        self.cross_attention = PyramidAttention(width, options.levels, options.heads, options.points)
        self.cross_norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, options.feedforward, options.dropout)
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
        return level_positions(sizes, tokens.shape[-1], tokens.device) + torch.cat(embedding)


def _layers(layer: nn.Module, count: int) -> nn.ModuleList:
    """Return copies of a layer: as published, they start with the same biases."""
    return nn.ModuleList(copy.deepcopy(layer) for _ in range(count))
