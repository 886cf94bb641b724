"""Backbones: the papers' own, and any model of timm by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import timm
import timm.models

from segcore.backbones import convnext, efficientformer_v2, hrnet, resnest, simple_pyramid, swin
from segcore.backbones.base import Backbone
from segcore.backbones.convnext import ConvNeXt
from segcore.backbones.efficientformer_v2 import EfficientFormerV2
from segcore.backbones.hierarchical import HierarchicalBackbone
from segcore.backbones.hrnet import HRNet
from segcore.backbones.norms import set_norm_policy
from segcore.backbones.pretrained import check_timm_name
from segcore.backbones.resnest import ResNeSt
from segcore.backbones.simple_pyramid import SimplePyramid
from segcore.backbones.swin import Swin
from segcore.backbones.unread import freeze_unread
from segcore.backbones.vit_levels import TransformerLevels
from segcore.errors import InputError, check
from segcore.recipe import Model

__all__ = ["Backbone", "backbone_of", "check_name", "create_backbone"]


class _Family(NamedTuple):
    """A backbone class and the models it is for.

    Attributes:
        build: the class; called with name, pretrained, weights and the caller's changes.
        files: timm's files that define these models.
        names: of these models, without weights tag, where not a whole file is meant: timm's or our own.
        option: a change that only this class knows; without it another class builds the same names.
    """

    build: Callable[..., Backbone]
    files: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    option: str = ""

    def fits(self, name: str, changes: dict[str, Any]) -> bool:
        if self.option and self.option not in changes:
            return False
        return name.split(".")[0] in self.names or timm.models.is_model_in_modules(name, self.files)


# The first that fits builds; any other model of timm gives its own pyramid. A new backbone is a file in this folder and
# a line here: docs/add_a_backbone.md.
_FAMILIES = (
    _Family(EfficientFormerV2, names=efficientformer_v2.VARIANTS),
    _Family(HRNet, files=hrnet.MODULES),
    _Family(Swin, files=swin.MODULES),
    _Family(ConvNeXt, files=convnext.MODULES),
    _Family(TransformerLevels, files=simple_pyramid.MODULES, option="layers"),
    _Family(SimplePyramid, files=simple_pyramid.MODULES),
    _Family(ResNeSt, files=resnest.MODULES),
)

_DILATED = (
    *("byobnet", "convnext", "efficientnet", "mobilenetv3", "nfnet", "regnet", "res2net", "resnest", "resnet"),
    *("resnetv2", "rexnet", "senet", "sknet", "xception_aligned"),
)
"""timm's files whose models take an output stride."""
_OUTPUT_STRIDE = 32  # of all others


def check_name(name: str) -> None:
    """Raise an `InputError` with close matches if there is no backbone `name` (NAME or NAME.WEIGHTS_TAG)."""
    own = [known for family in _FAMILIES for known in family.names]
    if name.split(".")[0] not in own:
        check_timm_name(name, own)


def create_backbone(
    name: str,
    pretrained: bool = True,
    weights: str = "",
    norm: Literal["sync", "batch", "frozen"] = "sync",
    **changes: Any,
) -> Backbone:
    """Build a backbone by its name.

    Args:
        name: `efficientformerv2_{s0,s1,s2,l}`, `swin_*` (version 1), or any timm model: those with a pyramid give their
            levels at strides 4 to 32, plain vision transformers a simple pyramid at the same strides.
        pretrained: start from ImageNet weights (for plain transformers, whatever timm's name stands for).
        weights: file of such weights, .pth or .safetensors; empty gets them through timm.
        norm: batch norms synchronized over GPUs, per GPU, or fixed at their stored statistics.
        changes: further options of the backbone:
            `drop_path_rate` of every family but those without drop path (VGG, DenseNet, ...);
            `position_tables` of EfficientFormerV2;
            `stem_relu` of HRNet;
            `layers`, `img_size`, `position_resize` of plain vision transformers: `layers` gives the outputs of these
            blocks as they are, in place of the pyramid;
            `merge_strides`, `output_norm`, `embed_dim`, `depths`, `num_heads`, `window_size` of Swin (version 1);
            `output_norm`, `ls_init_value` (start of the layer scale) of ConvNeXt;
            `output_stride` (8 or 16) of ResNet, ConvNeXt and their relatives: later levels keep that stride, dilated;
            everything else that timm's model of that name takes (`img_size`, ...).

    Raises:
        InputError: unknown name (with close matches), no weights, no network, file of another model, output stride of a
            model that has no dilated form, drop path of one that has none.
    """
    check_name(name)
    if not timm.models.is_model_in_modules(name, _DILATED):
        _check_output_stride(name, changes.pop("output_stride", _OUTPUT_STRIDE))
    family = next((family for family in _FAMILIES if family.fits(name, changes)), _Family(HierarchicalBackbone))
    try:
        backbone = family.build(name, pretrained=pretrained, weights=weights, **changes)
    except TypeError as error:
        if "drop_path_rate" not in changes or "drop_path_rate" not in str(error):
            raise
        raise InputError(f"--model.backbone {name} has no drop path; add --model.drop-path 0") from error
    set_norm_policy(backbone, norm)
    return backbone


def backbone_of(options: Model, *, levels: int, paper: str, **changes: Any) -> Backbone:
    """Build the backbone that a network's options ask for; what only leads to levels that are not taken is fixed.

    Args:
        levels: how many feature maps the paper's head takes, the last ones.
        paper: its name.
        changes: further options of the backbone, as of `create_backbone`.

    Raises:
        InputError: as `create_backbone`, and where the backbone has fewer levels.
    """
    backbone = create_backbone(options.backbone, options.pretrained, options.weights, options.backbone_norm, **changes)
    check(
        len(backbone.channels) >= levels,
        f"--model.backbone {options.backbone} has feature maps at strides {list(backbone.strides)}; "
        f"{paper} needs {levels} levels, choose a backbone with more",
    )
    freeze_unread(backbone, range(-levels, 0))
    return backbone


def _check_output_stride(name: str, output_stride: int) -> None:
    if output_stride != _OUTPUT_STRIDE:
        raise InputError(
            f"--model.backbone {name} has no form with output stride {output_stride}; choose a ResNet or one of its "
            f"relatives, or --model.output-stride {_OUTPUT_STRIDE}"
        )
