"""The convolution block of ECFD's decoders, its form for maps that have to be enlarged first, and its two resizes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ecfd.resized_conv import conv_of_resized
from ecfd.tokens import Size, size_of


class ConvBR(nn.Sequential):
    """Convolution without bias, batch norm and ReLU (ecfd/PAPER 3), initialized as PyTorch does."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class ConvBROfMaps(ConvBR):
    """3x3 `ConvBR` of the concatenation of several maps, all resized bilinearly to one size first.

    On a CPU neither the enlarged maps nor their concatenation are made: see `conv_of_resized`.

    Args:
        in_channels: of all maps together.
        align_corners: how the maps are resized.

    Shapes:
        maps (B, C_i, h_i, w_i) in the order of the concatenation, size (H, W) -> (B, out_channels, H, W)
    """

    def __init__(self, in_channels: int, out_channels: int, *, align_corners: bool) -> None:
        super().__init__(in_channels, out_channels, 3)
        self.align_corners = align_corners

    def forward(self, *maps: Tensor, size: Size) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        conv, norm, act = self
        assert isinstance(conv, nn.Conv2d)
        total = conv_of_resized(maps, conv.weight, size, align_corners=self.align_corners)
        if conv.bias is not None:  # of a folded norm
            total = total + conv.bias[:, None, None]
        return act(norm(total))

    def published_macs(self, output: Tensor) -> int:
        """Return the cost of the convolution of the concatenated maps, of which this computes less."""
        conv = self[0]
        assert isinstance(conv, nn.Conv2d)
        return output.numel() * conv.in_channels * 9


def resize_aligned(x: Tensor, size: Size) -> Tensor:
    """Resize bilinearly with align_corners True, as the FPN head does and nothing else (ecfd/PAPER 3.8)."""
    if size_of(x) == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
