"""ConvNeXt as a dense backbone, https://arxiv.org/abs/2201.03545: timm's, with a norm on every level (ecfd/PAPER 2)."""

from __future__ import annotations

from typing import Any

from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from segcore.backbones.hierarchical import HierarchicalBackbone
from segcore.weights.names import NameMap

MODULES = ("convnext",)
"""timm's file of these models."""

_START = r"(^|backbone\.)"
_STAGE = rf"{_START}model\.stages_(\d)\."

ORIGINAL = NameMap(
    (
        (rf"{_START}model\.stem_(\d)\.", r"\1downsample_layers.0.\2."),
        (rf"{_STAGE}downsample\.", r"\1downsample_layers.\2."),
        (rf"({_STAGE}blocks\.\d+)\.conv_dw\.", r"\1.dwconv."),
        (rf"({_STAGE}blocks\.\d+)\.mlp\.fc([12])\.", r"\1.pwconv\4."),
        (rf"{_STAGE}blocks\.", r"\1stages.\2."),
        (rf"{_START}norms\.(\d)\.", r"\1norm\2."),
    )
)
"""From our names to those of the original release, which ECFD's checkpoints have, too (ecfd/PAPER 6)."""


class ConvNeXt(HierarchicalBackbone):
    """The levels of timm's ConvNeXt, each with a LayerNorm over its channels.

    Args:
        name: timm model, with or without a weights tag.
        pretrained, weights: see `create_backbone`; a file may have timm's or the original names.
        output_norm: False leaves the levels as they are; the norms start anew with ImageNet weights.
        changes: further options of timm's model, e.g. `drop_path_rate`, `ls_init_value` (start of the layer scale).
    """

    def __init__(
        self, name: str, pretrained: bool = True, weights: str = "", output_norm: bool = True, **changes: Any
    ) -> None:
        super().__init__(name, pretrained, weights, **changes)
        self.norms = nn.ModuleList(LayerNorm2d(c, eps=1e-6) if output_norm else nn.Identity() for c in self.channels)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [norm(level) for norm, level in zip(self.norms, super().forward(image), strict=True)]
