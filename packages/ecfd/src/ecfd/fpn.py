"""FPN head: four levels fused at the finest one (ecfd/PAPER 3.8)."""

from __future__ import annotations

from torch import Tensor, nn

from ecfd.layers import ConvBR, ConvBROfMaps, resize_aligned
from ecfd.tokens import size_of


class FPN(nn.Module):
    """Top-down sums with lateral convolutions, an output convolution per level, one convolution of all outputs.

    Every resize has align_corners True. The running map is the sum, not the output; outputs are concatenated coarse to
    fine.

    Args:
        channels: C of every level and of the output.

    Shapes:
        four maps (B, C, h_i, w_i), fine to coarse -> (B, C, h_1, w_1)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.top = ConvBR(channels, channels, 3)
        self.laterals = nn.ModuleList(ConvBR(channels, channels, 1) for _ in range(3))
        self.outputs = nn.ModuleList(ConvBR(channels, channels, 3) for _ in range(3))
        self.fuse = ConvBROfMaps(4 * channels, channels, align_corners=True)

    def forward(self, *levels: Tensor) -> Tensor:
        *finer, coarsest = levels
        running = self.top(coarsest)
        outputs = [running]
        for level, lateral, output in zip(
            reversed(finer), reversed(self.laterals), reversed(self.outputs), strict=True
        ):
            running = resize_aligned(running, size_of(level)) + lateral(level)
            outputs.append(output(running))
        return self.fuse(*outputs, size=size_of(levels[0]))
