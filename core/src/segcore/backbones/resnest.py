"""ResNeSt as a dense backbone, https://arxiv.org/abs/2004.08955, memorynet/PAPER 2.

timm's network with the shortcut of the published segmentation models, which pool only where they lower the resolution.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from segcore.backbones.base import Backbone
from segcore.backbones.pretrained import create_timm_model

MODULES = ("resnest",)
"""timm's file of these models."""


class ResNeSt(Backbone):
    """The four levels of a ResNeSt, of any image size; odd sizes round up from level to level.

    The tensors have timm's names after `model.`; `resnet_names.RENAMES` gives those of MemoryNet's checkpoints.

    Args:
        name: timm model, with or without a weights tag.
        pretrained, weights: see `create_backbone`.
        output_stride: largest stride; with 8 or 16 the stages behind it are dilated instead, the first block of each by
            half as much as the others.
        changes: further options of timm's model.
    Shapes:
        (B, 3, H, W) -> levels at strides 4, 8, 16, 32, each at most `output_stride`
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = True,
        weights: str = "",
        output_stride: Literal[8, 16, 32] = 32,
        **changes: Any,
    ) -> None:
        super().__init__()
        self.model = create_timm_model(
            name,
            pretrained,
            weights,
            features_only=True,
            out_indices=(1, 2, 3, 4),
            output_stride=output_stride,
            **changes,
        )
        self.channels = tuple(self.model.feature_info.channels())
        self.strides = tuple(self.model.feature_info.reduction())
        for stride, before, stage in zip(self.strides[1:], self.strides, ("layer2", "layer3", "layer4"), strict=False):
            if stride == before:
                # timm averages 2x2 pixels here at stride 1; the published weights were trained without it
                self.model[stage][0].downsample[0] = nn.Identity()

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.model(image)
