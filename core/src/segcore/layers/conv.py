"""Convolution, batch norm and activation as one block, with the tensor names of the published code."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

Activation = Literal["ReLU", "LeakyReLU", "none"]


class ConvNormAct(nn.Module):
    """Convolution without bias, batch norm, activation: tensors `conv.weight` and `bn.*`.

    Names, initial values (He, fan out, by the activation's slope) and the order of the random draws are those of
    mmcv's `ConvModule`, of which the published heads are made.

    Args:
        padding: None keeps the size at stride 1 (kernel odd).

    Shapes:
        (B, in_channels, h, w) -> (B, out_channels, h', w')
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        activation: Activation = "ReLU",
    ) -> None:
        super().__init__()
        padding = dilation * (kernel // 2) if padding is None else padding
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        kinds = {"ReLU": nn.ReLU(inplace=True), "LeakyReLU": nn.LeakyReLU(inplace=True), "none": nn.Identity()}
        self.activate = kinds[activation]
        is_leaky = activation == "LeakyReLU"
        nn.init.kaiming_normal_(
            self.conv.weight,
            a=0.01 if is_leaky else 0.0,
            mode="fan_out",
            nonlinearity="leaky_relu" if is_leaky else "relu",
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.activate(self.bn(self.conv(x)))
