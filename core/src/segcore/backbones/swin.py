"""Swin Transformer as a dense backbone, https://arxiv.org/abs/2103.14030, ecfd/PAPER 2 and iiwa/PAPER 2.

Takes any image size: maps are zero-padded to whole windows inside each attention, after its norm and before the shift,
as the published segmentation models do. timm's Swin pads elsewhere and drops the shift on small maps; the two agree
where every map consists of whole windows.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from timm.layers.drop import DropPath
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from segcore.backbones.base import Backbone
from segcore.backbones.swin_weights import load_imagenet_weights
from segcore.errors import InputError

MODULES = ("swin_transformer",)
"""timm's file of these models."""
_SEPARATED = -100.0  # added to the attention logits of tokens that only the cyclic shift made neighbors


def shift_mask(height: int, width: int, window: int, device: torch.device) -> Tensor:
    """Return what keeps apart, in shifted windows, tokens that are no neighbors in the map (ecfd/PAPER 2.2, iv).

    Args:
        height, width: size of the PADDED map, multiples of `window`.

    Returns:
        (windows, N, N), N = window^2: -100 between tokens of different regions, else 0.
    """

    def regions(side: int) -> Tensor:
        position = torch.arange(side, device=device)
        return (position >= side - window).long() + (position >= side - window // 2)

    region = 3 * regions(height)[:, None] + regions(width)
    region = rearrange(region, "(h p) (w q) -> (h w) (p q)", p=window, q=window)
    return torch.where(region[:, :, None] == region[:, None, :], 0.0, _SEPARATED)


def _relative_position_index(window: int) -> Tensor:
    """Return the table row of every (query, key) pair: (2w - 1) (dy + w - 1) + (dx + w - 1), (N, N) int64."""
    side = torch.arange(window)
    offset = side[:, None] - side + window - 1  # (w, w)
    index = (2 * window - 1) * offset[:, None, :, None] + offset[None, :, None, :]  # (y, x, y', x')
    return index.reshape(window**2, window**2)


class WindowAttention(nn.Module):
    """Multi-head attention inside non-overlapping windows, shifted in every second block.

    Args:
        channels: C = M * D.
        num_heads: M.
        window: side of a window; never shrinks, whatever the map.
        shift: the windows are moved by this many positions.
    Shapes:
        map (B, h, w, C), mask (windows, N, N) of the padded map where shift > 0 -> (B, h, w, C)
    """

    relative_position_index: Tensor

    def __init__(self, channels: int, num_heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.shift = shift
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", _relative_position_index(window), persistent=False)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))  # tokens that take part, unmasked
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        rows = x.shape[1] // self.window
        qkv = rearrange(
            self.qkv(x),
            "b (h p) (w q) (three m d) -> three b (h w) m (p q) d",
            p=self.window,
            q=self.window,
            three=3,
            m=self.num_heads,
        )
        y = self._attend(qkv, mask)  # (B, windows, M, N, D)
        y = self.proj(rearrange(y, "b (h w) m (p q) d -> b (h p) (w q) (m d)", h=rows, p=self.window))
        if self.shift:
            y = y.roll((self.shift, self.shift), dims=(1, 2))
        return y[:, :height, :width]

    def _attend(self, qkv: Tensor, mask: Tensor | None) -> Tensor:
        """Attend in every window: (3, B, windows, M, N, D) -> (B, windows, M, N, D).

        What is added to the logits is never repeated for the batch: batch and windows form one axis where all windows
        share it, windows and heads where each has its own.
        """
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)  # (M, N, N)
        if mask is None:
            folded, added = qkv.flatten(1, 2), bias[None]
        else:
            folded, added = qkv.flatten(2, 3), (mask[:, None] + bias).flatten(0, 1)[None]
        q, k, v = folded.unbind(0)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=added.to(q.dtype)).view(qkv.shape[1:])


class Block(nn.Module):
    """Pre-norm window attention and MLP, each with a residual path; (B, h, w, C) -> (B, h, w, C)."""

    def __init__(self, channels: int, num_heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, num_heads, window, shift)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, 4 * channels)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), mask if self.attn.shift else None))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """Each 2x2 neighborhood becomes one token of twice the channels; with stride 1 neighborhoods overlap.

    The map is zero-padded on the right and bottom until every position has its neighborhood (iiwa/PAPER 2). The
    quarters lie in the order of the original Swin: (0, 0), (1, 0), (0, 1), (1, 1), rows first.

    Args:
        channels: C.
        stride: 1 or 2.
    Shapes:
        (B, h, w, C) -> (B, ceil(h / stride), ceil(w / stride), 2C)
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        stride = self.stride
        height, width = (-(-side // stride) for side in x.shape[1:3])
        bottom, right = (height - 1) * stride + 2 - x.shape[1], (width - 1) * stride + 2 - x.shape[2]
        x = F.pad(x, (0, 0, 0, right, 0, bottom))
        ends = (stride * (height - 1) + 1, stride * (width - 1) + 1)
        corners = ((0, 0), (1, 0), (0, 1), (1, 1))
        quarters = [x[:, r : r + ends[0] : stride, c : c + ends[1] : stride] for r, c in corners]
        return self.reduction(self.norm(torch.cat(quarters, dim=-1)))


class PatchEmbedding(nn.Module):
    """Patches, zero-padded on the right and bottom to whole ones: (B, 3, H, W) -> (B, h, w, C)."""

    def __init__(self, channels: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(3, channels, kernel_size=patch, stride=patch)
        self.norm = nn.LayerNorm(channels)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        image = F.pad(image, (0, -width % self.patch, 0, -height % self.patch))
        return self.norm(self.proj(image).permute(0, 2, 3, 1))


class Stage(nn.Module):
    """Blocks at one resolution: (B, h, w, C) -> the same, and what the next stage takes, if there is one."""

    def __init__(
        self, channels: int, num_heads: int, window: int, drop_paths: list[float], next_stride: int | None
    ) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(
            Block(channels, num_heads, window, window // 2 if i % 2 else 0, rate) for i, rate in enumerate(drop_paths)
        )
        self.downsample = PatchMerging(channels, next_stride) if next_stride else nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        padded = [side + -side % self.window for side in x.shape[1:3]]
        # once for all blocks of a stage: far cheaper than one of them, and nothing to keep between images
        mask = shift_mask(padded[0], padded[1], self.window, x.device)
        for block in self.blocks:
            x = block(x, mask)
        return x, self.downsample(x)


class _Shape(NamedTuple):
    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    windows: tuple[int, ...] = ()


_SIZES = {
    "tiny": _Shape(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": _Shape(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": _Shape(128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": _Shape(192, (2, 2, 18, 2), (6, 12, 24, 48)),
    "s3_tiny": _Shape(96, (2, 2, 6, 2), (3, 6, 12, 24), (7, 7, 14, 7)),
    "s3_small": _Shape(96, (2, 2, 18, 2), (3, 6, 12, 24), (14, 14, 14, 7)),
    "s3_base": _Shape(96, (2, 2, 30, 2), (3, 6, 12, 24), (7, 7, 14, 7)),
}


def _shape_of(name: str) -> _Shape:
    """Return what timm's name says, e.g. `swin_large_patch4_window12_384.ms_in22k`."""
    parts = re.match(r"swin_(s3_\w+|[a-z]+)_(?:patch4_window(\d+)_)?\d+", name)
    if parts is None or parts[1] not in _SIZES:
        raise InputError(f"--model.backbone {name}: segcore has the Swin sizes {', '.join(_SIZES)}; take one of them")
    shape = _SIZES[parts[1]]
    return shape._replace(windows=shape.windows or (int(parts[2]),) * len(shape.depths))


class Swin(Backbone):
    """Swin Transformer without classifier: the output of every stage, before its merging.

    Args:
        name: timm's name of a Swin (version 1), with or without a weights tag.
        pretrained, weights: see `create_backbone`; a file may have timm's, Microsoft's or OpenMMLab's names.
        merge_strides: patch size, then the stride of each patch merging: (4, 2, 2, 2) gives levels at strides 4 to 32,
            (4, 2, 1, 1) at 4, 8, 8, 8 (iiwa/PAPER 2).
        output_norm: a LayerNorm of its own on each level; it starts anew with ImageNet weights.
        drop_path_rate: probability that the residual branches of the last block are left out, rising over the depth.
        embed_dim, depths, num_heads, window_size: what the name stands for, replaced; with ImageNet weights of another
            window the position tables are stretched.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = True,
        weights: str = "",
        merge_strides: tuple[int, ...] = (4, 2, 2, 2),
        output_norm: bool = True,
        drop_path_rate: float = 0.0,
        embed_dim: int = 0,
        depths: tuple[int, ...] = (),
        num_heads: tuple[int, ...] = (),
        window_size: int = 0,
    ) -> None:
        super().__init__()
        named = _shape_of(name)
        depths = depths or named.depths
        windows = (window_size,) * len(depths) if window_size else named.windows
        shape = _Shape(embed_dim or named.embed_dim, depths, num_heads or named.num_heads, windows)
        if len({len(shape.depths), len(shape.num_heads), len(shape.windows), len(merge_strides)}) > 1:
            raise ValueError(f"{shape} and merge_strides {merge_strides} differ in their number of stages")
        if not set(merge_strides[1:]) <= {1, 2}:
            raise ValueError(f"patches are merged with stride 1 or 2, merge_strides is {merge_strides}")
        stages = range(len(shape.depths))
        self.channels = tuple(shape.embed_dim * 2**i for i in stages)
        self.strides = tuple(math.prod(merge_strides[: i + 1]) for i in stages)
        rates = [drop_path_rate * i / max(sum(shape.depths) - 1, 1) for i in range(sum(shape.depths))]
        self.patch_embed = PatchEmbedding(shape.embed_dim, merge_strides[0])
        self.stages = nn.ModuleList(
            Stage(
                self.channels[i],
                shape.num_heads[i],
                shape.windows[i],
                rates[sum(shape.depths[:i]) :][: shape.depths[i]],
                merge_strides[i + 1] if i + 1 < len(stages) else None,
            )
            for i in stages
        )
        self.norms = nn.ModuleList(nn.LayerNorm(c) if output_norm else nn.Identity() for c in self.channels)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if pretrained or weights:
            load_imagenet_weights(self, name, weights)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.patch_embed(image)
        levels = []
        for stage, norm in zip(self.stages, self.norms, strict=True):
            level, x = stage(x)
            levels.append(norm(level).permute(0, 3, 1, 2))
        return levels
