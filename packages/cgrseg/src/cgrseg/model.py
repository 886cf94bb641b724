"""CGRSeg: backbone, head, and the variants of the paper."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cgrseg.head import CGRSegHead
from cgrseg.options import CGRSEG_B, CGRSEG_L, CGRSEG_S0, CGRSEG_T, CGRSegModel
from segcore.backbones import create_backbone
from segcore.errors import InputError
from segcore.losses import SegmentationLoss
from segcore.recipe import Loss, Recipe
from segcore.segmentor import EncoderDecoder

_LEVELS = 3


class CGRSeg(EncoderDecoder):
    """CGRSeg (https://arxiv.org/abs/2405.06228): logits at the stride of the third-last feature level (8).

    Args:
        options: backbone, width and depth of the head.
        num_classes: K.
        loss: training loss; the published one is plain cross entropy averaged over all pixels.

    Raises:
        InputError: the backbone is unknown, has fewer than three levels, or its weights cannot be had.
    """

    def __init__(self, options: CGRSegModel, num_classes: int, loss: Loss | None = None) -> None:
        changes: dict[str, Any] = {}
        if options.drop_path > 0:
            changes["drop_path_rate"] = options.drop_path
        if options.position_tables != "zero":
            changes["position_tables"] = options.position_tables
        backbone = create_backbone(
            options.backbone, options.pretrained, options.weights, options.backbone_norm, **changes
        )
        if len(backbone.channels) < _LEVELS:
            raise InputError(
                f"--model.backbone {options.backbone} has feature maps at strides {list(backbone.strides)}; "
                f"CGRSeg needs {_LEVELS} levels, choose a backbone with more"
            )
        head = CGRSegHead(
            backbone.channels[-_LEVELS:],
            num_classes,
            width=options.width,
            num_modules=options.pyramid_modules,
            band=options.band,
            dropout=options.dropout,
            sync_all_norms=options.sync_all_norms,
        )
        super().__init__(backbone, head, num_classes, SegmentationLoss(loss or Loss()))


def cgrseg_s0(num_classes: int = 150, **changes: Any) -> CGRSeg:
    """CGRSeg on EfficientFormerV2-S0: smaller than anything published. `changes` replaces options."""
    return CGRSeg(replace(CGRSEG_S0, **changes), num_classes)


def cgrseg_t(num_classes: int = 150, **changes: Any) -> CGRSeg:
    """CGRSeg-T. `changes` replaces options, e.g. `pretrained=False`."""
    return CGRSeg(replace(CGRSEG_T, **changes), num_classes)


def cgrseg_b(num_classes: int = 150, **changes: Any) -> CGRSeg:
    """CGRSeg-B as released; `pyramid_modules=5` is the model of the published table."""
    return CGRSeg(replace(CGRSEG_B, **changes), num_classes)


def cgrseg_l(num_classes: int = 150, **changes: Any) -> CGRSeg:
    """CGRSeg-L. `changes` replaces options."""
    return CGRSeg(replace(CGRSEG_L, **changes), num_classes)


def build(recipe: Recipe, num_classes: int) -> CGRSeg:
    """Return the network of a recipe with its initial weights."""
    assert isinstance(recipe.model, CGRSegModel)
    return CGRSeg(recipe.model, num_classes, recipe.loss)
