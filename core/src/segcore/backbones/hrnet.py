"""HRNet as a dense backbone, https://arxiv.org/abs/1908.07919, memorynet/PAPER 2.

timm's network with the bilinear fusion of the published segmentation models: any image size, no channel-raising heads.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from timm.models.hrnet import HighResolutionModule
from torch import Tensor, nn

from segcore.backbones.base import Backbone
from segcore.backbones.pretrained import create_timm_model

MODULES = ("hrnet",)
"""timm's file of these models."""


class FusedBranches(nn.Module):
    """Branches at several resolutions, each followed by the sum of all of them at its own resolution.

    Coarser branches are enlarged bilinearly by their power of two; where a size is no multiple of it, once more to the
    exact size of the branch they are added to.

    Args:
        module: timm's form of the same, whose layers are taken over.
    Shapes:
        one map (B, C_i, h_i, w_i) per branch, each half of the one before, rounded up -> maps of the same sizes
    """

    def __init__(self, module: HighResolutionModule) -> None:
        super().__init__()
        assert isinstance(module.fuse_layers, nn.ModuleList)  # a single branch would have none
        self.branches = module.branches
        self.fuse_layers = module.fuse_layers
        self.act = nn.ReLU()
        for layer in self.fuse_layers.modules():
            if isinstance(layer, nn.Upsample):
                layer.mode, layer.align_corners = "bilinear", False

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        levels = [branch(level) for branch, level in zip(self.branches, levels, strict=True)]
        fused = []
        for i, paths in enumerate(self.fuse_layers):
            assert isinstance(paths, nn.ModuleList)  # from every branch to branch i
            size = levels[i].shape[-2:]
            maps = [self._to_size(path(level), size) for path, level in zip(paths, levels, strict=True)]
            fused.append(self.act(sum(maps[1:], maps[0])))
        return fused

    @staticmethod
    def _to_size(level: Tensor, size: tuple[int, ...]) -> Tensor:
        if level.shape[-2:] == size:
            return level
        return F.interpolate(level, size=size, mode="bilinear", align_corners=False)


class HRNet(Backbone):
    """The four branches behind the last stage of an HRNet, unresized: their concatenation is the head's.

    The tensors have timm's names after `model.`, which are the published ones (`timm_names.RENAMES`).

    Args:
        name: timm model, with or without a weights tag.
        pretrained, weights: see `create_backbone`.
        stem_relu: ReLU between the two convolutions of the stem. ImageNet weights have it; MemoryNet's published
            models were trained without (memorynet/PAPER P1).
    Shapes:
        (B, 3, H, W) of any size -> levels at strides 4, 8, 16 and 32, sizes rounded up; channels C, 2C, 4C and 8C
    """

    def __init__(
        self, name: str, pretrained: bool = True, weights: str = "", stem_relu: bool = True, **changes: Any
    ) -> None:
        super().__init__()
        self.model = create_timm_model(
            name, pretrained, weights, features_only=True, feature_location="", out_indices=(1, 2, 3, 4), **changes
        )
        self.channels = tuple(self.model.feature_info.channels())
        self.strides = tuple(self.model.feature_info.reduction())
        for stage in (self.model.stage2, self.model.stage3, self.model.stage4):
            for i, module in enumerate(stage):
                stage[i] = FusedBranches(module)
        if not stem_relu:
            self.model.act1 = nn.Identity()

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.model(image)
