"""Plain vision transformers (DINOv2, DINOv3, CLIP, ...) of timm with a simple feature pyramid.

The pyramid is the one of segmentation with plain transformers (BEiT, https://arxiv.org/abs/2106.08254; ViTDet,
https://arxiv.org/abs/2203.16527): four evenly spaced layers, brought to strides 4, 8, 16 and 32.
"""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from segcore.backbones.base import Backbone
from segcore.backbones.pretrained import create_timm_model

MODULES = ("vision_transformer", "eva", "deit")
"""timm's files whose models are plain transformers for images of any size."""
_STRIDES = (4, 8, 16, 32)


def _rescale(channels: int, power: int) -> nn.Module:
    """Enlarge a map 2^power times with transposed convolutions, or shrink it 2^-power times by max pooling."""
    if power < 0:
        return nn.MaxPool2d(2**-power, ceil_mode=True)
    layers: list[nn.Module] = []
    for i in range(power):
        if i > 0:
            layers += [nn.BatchNorm2d(channels), nn.GELU()]
        layers.append(nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2))
    return nn.Sequential(*layers)


class SimplePyramid(Backbone):
    """Four layers of a plain transformer at strides 4, 8, 16 and 32.

    With patches whose size is no power of two (14 pixels), the maps are resized to exactly these strides.

    Args:
        name: timm model, with or without a weights tag.
        pretrained, weights: see `create_backbone`; the pyramid starts at random.
        changes: further options of timm's model.
    """

    def __init__(self, name: str, pretrained: bool = True, weights: str = "", **changes: Any) -> None:
        super().__init__()
        options = {"num_classes": 0, "dynamic_img_size": True, **changes}
        self.model = create_timm_model(name, pretrained, weights, **options)
        depth = len(self.model.feature_info)
        self._layers = [depth * (i + 1) // len(_STRIDES) - 1 for i in range(len(_STRIDES))]
        self.patch = int(self.model.feature_info[0]["reduction"])
        channels = int(self.model.feature_info[0]["num_chs"])
        self.rescale = nn.ModuleList(_rescale(channels, round(math.log2(self.patch / s))) for s in _STRIDES)
        self.strides = _STRIDES
        self.channels = (channels,) * len(_STRIDES)

    def legal_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size rounded up to whole patches."""
        return -(-height // self.patch) * self.patch, -(-width // self.patch) * self.patch

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = self.model.forward_intermediates(
            image, indices=self._layers, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        levels = []
        for rescale, stride, x in zip(self.rescale, self.strides, maps, strict=True):
            size = (-(-image.shape[-2] // stride), -(-image.shape[-1] // stride))
            level = rescale(x)
            if tuple(level.shape[-2:]) != size:
                level = F.interpolate(level, size=size, mode="bilinear", align_corners=False)
            levels.append(level)
        return levels
