"""The block that all of MemoryNet's head is made of: convolution without bias, batch norm, activation."""

from __future__ import annotations

from typing import Literal

from mmcv.cnn import ConvModule

Activation = Literal["ReLU", "LeakyReLU"]


def conv_norm_act(
    in_channels: int, out_channels: int, kernel: int, activation: Activation, *, dilation: int = 1, stride: int = 1
) -> ConvModule:
    """Return cbr(in, out, kernel) of memorynet/PAPER: padded so that stride 1 keeps the size.

    Shapes:
        (B, in_channels, h, w) -> (B, out_channels, h, w)
    """
    return ConvModule(
        in_channels,
        out_channels,
        kernel,
        stride=stride,
        padding=dilation * (kernel // 2),
        dilation=dilation,
        norm_cfg={"type": "BN"},
        act_cfg={"type": activation},
    )
