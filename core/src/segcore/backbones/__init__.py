"""Backbones: the papers' own, and any model of timm by its name."""

from __future__ import annotations

from typing import Any, Literal

import timm
import timm.models

from segcore.backbones import efficientformer_v2, plain
from segcore.backbones.base import Backbone
from segcore.backbones.efficientformer_v2 import EfficientFormerV2
from segcore.backbones.hierarchical import HierarchicalBackbone
from segcore.backbones.norms import set_norm_policy
from segcore.backbones.plain import PlainBackbone
from segcore.backbones.pretrained import check_name

__all__ = ["Backbone", "create_backbone"]


def create_backbone(
    name: str,
    pretrained: bool = True,
    weights: str = "",
    norm: Literal["sync", "batch", "frozen"] = "sync",
    **changes: Any,
) -> Backbone:
    """Build a backbone by its name.

    Args:
        name: `efficientformerv2_{s0,s1,s2,l}`, or any timm model: those with a pyramid give their levels at strides 4
            to 32, plain vision transformers a simple pyramid at the same strides.
        pretrained: start from ImageNet weights (for plain transformers, whatever timm's name stands for).
        weights: file of such weights, .pth or .safetensors; empty gets them through timm.
        norm: batch norms synchronized over GPUs, per GPU, or fixed at their stored statistics.
        changes: further options of the backbone (`drop_path_rate`, `position_tables`, `img_size`, ...).

    Raises:
        InputError: unknown name (with close matches), no weights, no network, file of another model.
    """
    check_name(name)
    kind: type[EfficientFormerV2] | type[HierarchicalBackbone] | type[PlainBackbone]
    if name.split(".")[0] in efficientformer_v2.VARIANTS:
        kind = EfficientFormerV2
    else:
        kind = PlainBackbone if timm.models.is_model_in_modules(name, plain.MODULES) else HierarchicalBackbone
    backbone = kind(name, pretrained=pretrained, weights=weights, **changes)
    set_norm_policy(backbone, norm)
    return backbone
