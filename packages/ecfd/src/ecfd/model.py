"""ECFD: backbone, head, auxiliary head, and the sizes of the paper."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from ecfd.heads import HEADS
from ecfd.options import BASE, LARGE, SMALL, TINY, ECFDModel
from segcore.backbones import Backbone, create_backbone
from segcore.errors import check
from segcore.layers.fcn_head import FCNHead
from segcore.losses import SegmentationLoss
from segcore.recipe import Loss, Recipe
from segcore.segmentor import EncoderDecoder

_LEVELS = 4


def _backbone_changes(options: ECFDModel) -> dict[str, Any]:
    """Return what the published backbones are asked for (ecfd/PAPER 2); others keep their own defaults."""
    changes: dict[str, Any] = {}
    if options.backbone.startswith("convnext_"):
        changes |= {"output_norm": True, "ls_init_value": 1.0}  # Swin has its output norms by itself
    if options.drop_path > 0:
        changes["drop_path_rate"] = options.drop_path
    if options.output_stride != 32:
        changes["output_stride"] = options.output_stride
    return changes


class ECFD(EncoderDecoder):
    """ECFD and its variants: logits at the stride of the fourth-last feature level (4).

    Args:
        options: backbone, variant, width and depth of the head.
        num_classes: K.
        loss: training loss; the published one is plain cross entropy averaged over all pixels, 0.4 for the auxiliary.

    Raises:
        InputError: the backbone is unknown, has too few levels or the wrong strides, or its weights cannot be had.
    """

    def __init__(self, options: ECFDModel, num_classes: int, loss: Loss | None = None) -> None:
        settings = loss or Loss()
        backbone = create_backbone(
            options.backbone, options.pretrained, options.weights, options.backbone_norm, **_backbone_changes(options)
        )
        _check_levels(backbone, options)
        channels = backbone.channels[-_LEVELS:]
        head = HEADS[options.head](channels, num_classes, options)
        auxiliary = FCNHead(channels[2], options.auxiliary_channels, num_classes, index=-2, dropout=options.dropout)
        super().__init__(
            backbone,
            head,
            num_classes,
            SegmentationLoss(settings),
            nn.ModuleList([auxiliary]),
            settings.auxiliary,
            ("head.classifier.", "auxiliary.0.classifier."),
        )


def _check_levels(backbone: Backbone, options: ECFDModel) -> None:
    """Raise an `InputError` where a backbone's levels are not those that the head needs."""
    name, strides = options.backbone, list(backbone.strides)
    check(
        len(strides) >= _LEVELS,
        f"--model.backbone {name} has feature maps at strides {strides}; ECFD needs {_LEVELS} levels, choose a "
        "backbone with more",
    )
    second, third = strides[-_LEVELS:][1:3]
    check(
        options.head != "general" or second == third,
        f"--model.head general needs levels 2 and 3 of one size, and {name} has strides {strides}; "
        "add --model.output-stride 8 on a ResNet",
    )


def ecfd_tiny(num_classes: int = 19, **changes: Any) -> ECFD:
    """ECFD-tiny (E = 192) on ResNet-50. `changes` replaces options, e.g. `pretrained=False`."""
    return ECFD(replace(TINY, **changes), num_classes)


def ecfd_small(num_classes: int = 19, **changes: Any) -> ECFD:
    """ECFD-small (E = 384) on ResNet-50. `changes` replaces options."""
    return ECFD(replace(SMALL, **changes), num_classes)


def ecfd_base(num_classes: int = 19, **changes: Any) -> ECFD:
    """ECFD-base (E = 768) on ResNet-50. `changes` replaces options."""
    return ECFD(replace(BASE, **changes), num_classes)


def ecfd_large(num_classes: int = 19, **changes: Any) -> ECFD:
    """ECFD-large (E = 1024) on ResNet-50. `changes` replaces options."""
    return ECFD(replace(LARGE, **changes), num_classes)


def build(recipe: Recipe, num_classes: int) -> ECFD:
    """Return the network of a recipe with its initial weights."""
    assert isinstance(recipe.model, ECFDModel)
    return ECFD(recipe.model, num_classes, recipe.loss)
