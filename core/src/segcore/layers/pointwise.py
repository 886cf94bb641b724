"""1x1 convolutions on a CPU with one thread, through oneDNN.

With several threads torch takes oneDNN for all convolutions. With one it multiplies 1x1 convolutions as matrices with
MKL, which on an AMD EPYC with AVX-512 took 1.0 to 2.2 times as long forward, and 1.3 to 2.0 times with the gradients
(one thread, torch 2.15, ten shapes of 20 M to 4 G multiply-adds); it goes through groups one by one, 256 of them on a
map of 64x64 in 5.9 ms instead of 0.15. A dilation means nothing to a 1x1 kernel, but makes torch choose oneDNN for all
but small maps. The result differs by rounding only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SMALLEST_PRODUCT = 2**20  # multiply-adds below which oneDNN's call costs more than it saves
_SMALLEST_INPUT = 20480  # values up to which torch computes what is dilated in a slow form of its own


def use_onednn_pointwise(model: nn.Module) -> None:
    """Let the 1x1 convolutions of a network compute through oneDNN where it can, in place; names and weights stay.

    Layers of a class of their own are left alone.
    """
    for module in model.modules():
        is_plain = type(module) is nn.Conv2d and module.padding == (0, 0)
        if is_plain and module.kernel_size == module.stride == (1, 1):
            module.__class__ = PointwiseConv


class PointwiseConv(nn.Conv2d):
    """A 1x1 convolution that takes oneDNN for float32 on one CPU thread; elsewhere, and in graphs, it is torch's."""

    def forward(self, input: Tensor) -> Tensor:
        is_recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        if is_recorded or not self._is_for_onednn(input):
            return super().forward(input)
        return F.conv2d(input, self.weight, self.bias, dilation=2, groups=self.groups)

    def _is_for_onednn(self, input: Tensor) -> bool:
        is_large = self.groups > 1 or input.numel() * self.out_channels >= _SMALLEST_PRODUCT
        is_plain = input.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        is_on_one_thread = input.device.type == "cpu" and torch.get_num_threads() == 1
        return is_large and input.numel() > _SMALLEST_INPUT and is_plain and is_on_one_thread
