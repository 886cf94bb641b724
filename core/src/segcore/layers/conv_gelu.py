"""Convolutions that apply their GELU as they write, through oneDNN: for inference on a CPU.

A GELU by itself reads and writes the widest maps of a network once more: on an AMD EPYC, one thread, torch 2.15,
convolution and GELU together took 0.62 to 0.80 of their time apart (1x1 and depthwise, 16 to 480 channels). The
result differs by rounding only.

The operator is torch's own, but not part of its public interface: where it is not what it was, torch's layers run.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers.activations import GELU
from torch import Tensor, nn

from segcore.layers.linear import are_for_onednn, has_onednn
from segcore.layers.pointwise import PointwiseConv

_ARGUMENTS = ("X", "W", "B", "padding", "stride", "dilation", "groups", "attr", "scalars", "algorithm")


def absorb_gelu(conv: nn.Conv2d, activation: nn.Module) -> nn.Module:
    """Let a convolution apply the GELU after it where there is one, in place; return what takes that one's place."""
    is_gelu = type(activation) is GELU or (type(activation) is nn.GELU and activation.approximate == "none")
    is_plain = type(conv) in (nn.Conv2d, PointwiseConv) and conv.padding_mode == "zeros"
    if not (is_gelu and is_plain and isinstance(conv.padding, tuple)):
        return activation
    conv.__class__ = ConvGelu
    return nn.Identity()


class ConvGelu(nn.Conv2d):
    """A convolution and the exact GELU after it; oneDNN does both for float32 on a CPU without gradients."""

    def forward(self, input: Tensor) -> Tensor:
        is_recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        is_possible = are_for_onednn(input, self.weight) and has_onednn("_convolution_pointwise", _ARGUMENTS)
        if is_recorded or torch.is_grad_enabled() or not is_possible:
            return F.gelu(super().forward(input))
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        return torch.ops.mkldnn._convolution_pointwise(input, self.weight, self.bias, *geometry, "gelu", [], "none")
