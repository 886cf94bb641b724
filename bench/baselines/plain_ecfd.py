"""ECFD's decode head in the straightforward form, step by step as the paper writes it, on the weights of `ECFDHead`.

Everything is computed in every pass: reference points on the host, the position grid, the two steps of RCE, offsets and
weights of the attention one after the other, samples by `grid_sample`, a transposed copy for each map of the depthwise
convolution, every enlarged map and every concatenation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecfd.fusion import PositionGrid, TokenMLP
from ecfd.model import CLGD, FPN, RCE, CrossFusionBlock, ECFDHead
from segcore.layers.deform_attn.layer import DeformableAttention
from segcore.layers.deform_attn.op import deform_attn

Sizes = Sequence[tuple[int, int]]


def _resize(x: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *size).contiguous()


def _reference(sizes: Sizes, device: torch.device) -> Tensor:
    points = []
    for height, width in sizes:
        y, x = torch.meshgrid(
            torch.linspace(0.5, height - 0.5, height), torch.linspace(0.5, width - 0.5, width), indexing="ij"
        )
        points.append(torch.stack([x.reshape(-1) / width, y.reshape(-1) / height], dim=-1))
    return torch.cat(points)[None, :, None].to(device)


def _attend(layer: DeformableAttention, query: Tensor, reference: Tensor, value: Tensor, sizes: Sizes) -> Tensor:
    batch, queries, _ = query.shape
    shape = (batch, queries, layer.heads, layer.levels, layer.points)
    values = layer.value_proj(value).view(batch, value.shape[1], layer.heads, -1)
    offsets = layer.sampling_offsets(query).view(*shape, 2)
    weights = layer.attention_weights(query).view(*shape[:3], -1).softmax(-1).view(shape)
    extent = torch.tensor([(width, height) for height, width in sizes], dtype=query.dtype, device=query.device)
    locations = reference[:, :, None, :, None] + offsets / extent[:, None]
    return layer.output_proj(deform_attn(values, sizes, locations, weights, backend="reference"))


def _mlp(mlp: TokenMLP, tokens: Tensor, sizes: Sizes) -> Tensor:
    hidden, start, parts = mlp.fc1(tokens), 0, []
    for size in sizes:
        rows = hidden[:, start : start + size[0] * size[1]]
        parts.append(_tokens(mlp.conv(_map(rows, size))))
        start += size[0] * size[1]
    return mlp.fc2(F.gelu(torch.cat(parts, dim=1)))


def _block(block: CrossFusionBlock, spatial: Tensor, context: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
    cicm, sicm = block.cicm, block.sicm
    points = _reference(sizes[1:2], context.device)
    read = _attend(cicm.attention, cicm.query_norm(context), points, cicm.feature_norm(spatial), sizes)
    context = context + cicm.gamma * read
    points = _reference(sizes, context.device)
    read = _attend(sicm.attention, sicm.query_norm(spatial), points, sicm.feature_norm(context), sizes[1:2])
    spatial = spatial + read
    return spatial + _mlp(sicm.mlp, sicm.mlp_norm(spatial), sizes), context


def _embed(rce: RCE, levels: Sequence[Tensor]) -> Tensor:
    size = _size(levels[1])
    embedded = [embedding(level) for embedding, level in zip(rce.embeddings, levels, strict=True)]
    return rce.fuse(torch.cat([_resize(embedded[0], size), embedded[1], _resize(embedded[2], size)], dim=1))


def _position(position: PositionGrid, size: tuple[int, int]) -> Tensor:
    grid = _map(position.embedding[:, 1:], position.grid)
    return _tokens(F.interpolate(grid, size=size, mode="bicubic", align_corners=False))


def _conv_br(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Apply the layers one by one: the module itself may take maps in place of their concatenation."""
    for layer in layers:
        x = layer(x)
    return x


def _gate(clgd: CLGD, low: Tensor, high: Tensor) -> Tensor:
    low, high = clgd.low(low), _resize(high, _size(low))
    gate = clgd.gate.conv(torch.cat([low, high], dim=1)).sigmoid()
    return clgd.out(_conv_br(clgd.join, torch.cat([clgd.gamma * gate * low, high], dim=1)))


def _fuse(fpn: FPN, levels: Sequence[Tensor]) -> Tensor:
    running = fpn.top(levels[3])
    outputs = [running]
    for i in (2, 1, 0):
        running = _resize(running, _size(levels[i]), True) + fpn.laterals[i](levels[i])
        outputs.append(fpn.outputs[i](running))
    size = _size(levels[0])
    return _conv_br(fpn.fuse, torch.cat([_resize(x, size, True) for x in outputs], dim=1))


def plain_head(head: ECFDHead, features: Sequence[Tensor]) -> Tensor:
    """Return the logits of a head (dropout included), see the module."""
    finest, *levels = features
    sizes = [_size(level) for level in levels]
    projected = [project(level) for project, level in zip(head.projections, levels, strict=True)]
    spatial = torch.cat([_tokens(x) for x in projected], dim=1)
    assert isinstance(head.rce, RCE)
    context = _tokens(_embed(head.rce, levels)) + _position(head.position, sizes[1])
    for block in head.blocks:
        assert isinstance(block, CrossFusionBlock)
        spatial, context = _block(block, spatial, context, sizes)
    gated = _gate(head.clgd, head.low(finest), head.up(_map(context, sizes[1])))
    rows = spatial.split([height * width for height, width in sizes], dim=1)
    maps = [output(_map(x, size)) for output, x, size in zip(head.outputs, rows, sizes, strict=True)]
    return head.classifier(head.dropout(_fuse(head.fpn, [gated, *maps])))


class PlainHead(nn.Module):
    """`plain_head` as a module around an `ECFDHead`."""

    def __init__(self, head: ECFDHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return plain_head(self.head, features)
