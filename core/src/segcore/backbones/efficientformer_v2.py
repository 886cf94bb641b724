"""EfficientFormerV2 as a dense backbone, https://arxiv.org/abs/2212.08059, cgrseg/PAPER 2.

timm's layers, with attention that takes any image size: its position bias is the one of `position_bias.py`.
"""

from __future__ import annotations

from typing import Any, Literal

import timm
import torch
from einops import rearrange
from timm.models.efficientformer_v2 import Attention2d, Attention2dDownsample, ConvNorm, LocalGlobalQuery
from torch import Tensor, nn

from segcore.backbones.base import Backbone
from segcore.backbones.efficientformer_v2_weights import load_imagenet_weights
from segcore.backbones.position_bias import PositionBias

VARIANTS = ("efficientformerv2_s0", "efficientformerv2_s1", "efficientformerv2_s2", "efficientformerv2_l")
_HEADS = 8
_BASE_SIZE = 512  # position tables are learnt on this input size
_ATTENTION_STRIDE = 32


def _to_heads(x: Tensor) -> Tensor:
    """(B, M*D, h, w) -> (B, M, h*w, D)."""
    return rearrange(x, "b (m d) h w -> b m (h w) d", m=_HEADS)


class TalkingHead(nn.Conv2d):
    """1x1 convolution over the heads, as one product.

    A convolution wants maps in another layout than attention has them, and copies them twice: 1.7 to 2.9 times the time
    (AMD EPYC, one thread, torch 2.15, 256 to 1064 positions, one and two images).

    Shapes:
        (B, M, queries, keys) -> (B, M, queries, keys)
    """

    def __init__(self) -> None:
        super().__init__(_HEADS, _HEADS, 1)

    def forward(self, input: Tensor) -> Tensor:
        assert self.bias is not None
        weight = self.weight.flatten(1).expand(input.shape[0], -1, -1)
        return torch.baddbmm(self.bias[:, None], weight, input.flatten(2)).view_as(input)


class Attention(nn.Module):
    """Attention over all positions at stride 32, with head mixing before and after the softmax (cgrseg/PAPER 2.2).

    Args:
        channels: C.
        stride: 2 in stage 3, which is reduced to stride 32 and brought back; 1 in stage 4.
    Shapes:
        (B, C, h, w) -> (B, C, h, w), h and w even where stride is 2
    """

    def __init__(self, channels: int, stride: int, key_dim: int = 32, value_dim: int = 128) -> None:
        super().__init__()
        self.scale = key_dim**-0.5
        self.stride = stride
        hidden = _HEADS * value_dim
        self.stride_conv = (
            ConvNorm(channels, channels, kernel_size=3, stride=stride, groups=channels) if stride > 1 else nn.Identity()
        )
        # a module, because the counters of published FLOPs see modules only
        self.upsample = nn.Upsample(scale_factor=stride, mode="bilinear") if stride > 1 else nn.Identity()
        self.q = ConvNorm(channels, _HEADS * key_dim)
        self.k = ConvNorm(channels, _HEADS * key_dim)
        self.v = ConvNorm(channels, hidden)
        self.v_local = ConvNorm(hidden, hidden, kernel_size=3, groups=hidden)
        self.position_bias = PositionBias(_HEADS, grid=_BASE_SIZE // _ATTENTION_STRIDE)
        self.talking_head1 = TalkingHead()
        self.talking_head2 = TalkingHead()
        self.act = nn.GELU()
        self.proj = ConvNorm(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stride_conv(x)
        height, width = x.shape[-2:]
        q, k, v = self.q(x), self.k(x), self.v(x)
        logits = (_to_heads(q) @ _to_heads(k).transpose(-1, -2)).mul_(self.scale)  # (B, M, N, N)
        logits = self.talking_head1(logits + self.position_bias(height, width))
        weights = self.talking_head2(logits.float().softmax(dim=-1).to(logits.dtype))
        y = rearrange(weights @ _to_heads(v), "b m (h w) d -> b (m d) h w", h=height, w=width)
        return self.proj(self.act(self.upsample(self.v_local(v) + y)))


class DownAttention(nn.Module):
    """Attention whose queries are at half the resolution of its keys: the way from stage 3 to stage 4.

    Shapes:
        (B, C, h, w) -> (B, out_channels, h/2, w/2)
    """

    def __init__(self, channels: int, out_channels: int, key_dim: int = 16, value_dim: int = 64) -> None:
        super().__init__()
        self.scale = key_dim**-0.5
        hidden = _HEADS * value_dim
        self.q = LocalGlobalQuery(channels, _HEADS * key_dim)
        self.k = ConvNorm(channels, _HEADS * key_dim)
        self.v = ConvNorm(channels, hidden)
        self.v_local = ConvNorm(hidden, hidden, kernel_size=3, stride=2, groups=hidden)
        self.position_bias = PositionBias(_HEADS, grid=2 * _BASE_SIZE // _ATTENTION_STRIDE, stride=2)
        self.act = nn.GELU()
        self.proj = ConvNorm(hidden, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        logits = (_to_heads(q) @ _to_heads(k).transpose(-1, -2)).mul_(self.scale)  # (B, M, N/4, N)
        logits = logits + self.position_bias(x.shape[-2], x.shape[-1])
        weights = logits.float().softmax(dim=-1).to(logits.dtype)
        y = rearrange(weights @ _to_heads(v), "b m (h w) d -> b (m d) h w", h=q.shape[-2], w=q.shape[-1])
        return self.proj(self.act(self.v_local(v) + y))


def _widths(block: ConvNorm) -> tuple[int, int]:
    """Return the input and output channels of a convolution with norm."""
    outputs, inputs = block.get_parameter("conv.weight").shape[:2]
    return inputs, outputs


def _replace_attention(stages: nn.Module) -> None:
    """Put our attention in the place of timm's, which takes one image size only."""
    for parent in list(stages.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Attention2d):
                stride = 1 if child.stride_conv is None else 2
                setattr(parent, name, Attention(_widths(child.k)[0], stride))
            elif isinstance(child, Attention2dDownsample):
                setattr(parent, name, DownAttention(_widths(child.k)[0], _widths(child.proj)[1]))


class EfficientFormerV2(Backbone):
    """EfficientFormerV2 without classifier: maps at strides 4, 8, 16 and 32, without a norm on them.

    Args:
        name: one of `VARIANTS`.
        pretrained, weights: see `create_backbone`.
        position_tables: start of the position tables with ImageNet weights; the published models start at zero,
            "resampled" stretches the tables learnt at 224x224.
        drop_path_rate: probability that the residual branches of the last block are left out, rising over the depth.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = True,
        weights: str = "",
        position_tables: Literal["zero", "resampled"] = "zero",
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        model: Any = timm.create_model(name, pretrained=False, num_classes=0, drop_path_rate=drop_path_rate)
        _replace_attention(model.stages)
        self.stem: nn.Module = model.stem
        self.stages: nn.Sequential = model.stages
        self.channels = tuple(level["num_chs"] for level in model.feature_info)
        self.strides = tuple(level["reduction"] for level in model.feature_info)
        for module_name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and module_name.endswith((".mlp.fc1.conv", ".mlp.fc2.conv")):
                assert module.bias is not None
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        if pretrained or weights:
            load_imagenet_weights(self, name, weights, position_tables)

    def legal_size(self, height: int, width: int) -> tuple[int, int]:
        """Keep a side whose map at stride 16 is even; take the next multiple of 32 for the others."""

        def legal(side: int) -> int:
            rows = (side + 15) // 16
            is_odd = rows - rows // 2 * 2  # a number, not a branch or remainder: torch.export then takes any size
            return side + is_odd * ((side + 31) // 32 * 32 - side)

        return legal(height), legal(width)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.stem(image)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels
