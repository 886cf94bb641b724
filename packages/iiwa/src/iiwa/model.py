"""IIWA: context inside windows and between them, within one map and across scales (iiwa/PAPER 1).

In the order of the paper:

1. One attention serves throughout. Every position attends inside its window; then every window, pooled to one token,
   attends to the others, and what it gathers is spread over its positions (`attention.py`).
2. The neck joins two adjacent levels of the backbone at a time, from the deepest to the shallowest: windows of the
   shallower one ask the window of the same place in the deeper one (cross-IIWA, `neck.py`).
3. The decoder refines a query map, made of the last level, in stages: self-IIWA, then cross-IIWA with all three levels
   of the neck at once (`decoder.py`).
4. There every query window attends to a memory window of its own, of whatever level and place: the pairs are those of
   the largest total similarity of pooled tokens, one to one (`match` in `attention.py`, solvers in `matching/`).

Published: Swin whose last two levels keep stride 8; the loss on hard pixels; logits at stride 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from iiwa.decoder import Decoder
from iiwa.neck import CascadeNeck
from iiwa.recipes import IIWA_B, IIWA_L, IIWA_S, IIWAModel
from segcore.backbones import Backbone, create_backbone
from segcore.errors import InputError
from segcore.layers.linear import use_onednn
from segcore.losses import SegmentationLoss
from segcore.recipe import Loss, Recipe
from segcore.segmentor import EncoderDecoder, Prediction

_LEVELS = 4


class IIWAHead(nn.Module):
    """Neck and decoder.

    Args:
        channels: of the four levels, fine to coarse.
        strides: of the four levels.
        num_classes: K.

    Shapes:
        four maps (B, C_i, h_i, w_i) -> logits (B, K, r * h4, r * w4), r = `head_scale`
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int, options: IIWAModel) -> None:
        super().__init__()
        self.neck = CascadeNeck(channels, strides, options)
        self.decoder = Decoder(channels, num_classes, options)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.decoder(self.decoder.embed(features[-1]), self.neck(features))

    def with_auxiliary(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the logits, and the auxiliary ones (B, K, h4, w4) of the query stem."""
        embedded = self.decoder.embed(features[-1])
        return self.decoder(embedded, self.neck(features)), self.decoder.auxiliary(embedded)


class IIWA(EncoderDecoder):
    """The network: logits at stride 2 on the published backbones.

    Args:
        options: backbone, neck and decoder.
        num_classes: K.
        loss: training loss; published: hard pixels only (OHEM), class weights on Cityscapes, averaged over all pixels.

    Raises:
        InputError: the backbone is unknown, has other than four levels, its channels do not fit the heads, or its
            weights cannot be had.
    """

    head: IIWAHead
    loss_only = ("head.decoder.auxiliary_classifier.",)

    def __init__(self, options: IIWAModel, num_classes: int, loss: Loss | None = None) -> None:
        name, changes = options.backbone, options.backbone_changes()
        backbone = create_backbone(name, options.pretrained, options.weights, options.backbone_norm, **changes)
        _check_levels(options, backbone)
        settings = loss or Loss(ohem=True)
        super().__init__(
            backbone,
            IIWAHead(backbone.channels, backbone.strides, num_classes, options),
            num_classes,
            SegmentationLoss(settings),
            auxiliary_weight=settings.auxiliary,
            classifiers=("head.decoder.head.classifier.", "head.decoder.auxiliary_classifier."),
        )
        use_onednn(self)  # nearly all of the work is in linear layers

    def _predictions(self, features: list[Tensor]) -> list[Prediction]:
        """Return the logits, and as aux_0 those of the query stem."""
        main, auxiliary = self.head.with_auxiliary(features)
        return [Prediction("decode", main), Prediction("aux_0", auxiliary, self.auxiliary_weight)]


def _check_levels(options: IIWAModel, backbone: Backbone) -> None:
    """Refuse a backbone that the neck cannot work on, by the option that helps."""
    channels, strides = backbone.channels, backbone.strides
    if len(channels) != _LEVELS:
        raise InputError(
            f"--model.backbone {options.backbone} has feature maps at strides {list(strides)}; "
            f"IIWA needs {_LEVELS} levels, choose another backbone"
        )
    if any(coarse % fine for fine, coarse in pairwise(strides)):
        raise InputError(
            f"--model.backbone {options.backbone} has feature maps at strides {list(strides)}; IIWA pairs windows of "
            "adjacent levels, so each stride must be a multiple of the one before it; choose another backbone"
        )
    for width, heads in zip(channels, options.fusion_heads, strict=False):
        if width % heads or width % 4:
            raise InputError(
                f"--model.fusion-heads {options.fusion_heads} must divide the channels {list(channels[:-1])} of "
                f"--model.backbone {options.backbone}, all multiples of 4; give other heads or another backbone"
            )


def iiwa_s(num_classes: int = 150, **changes: Any) -> IIWA:
    """IIWA on Swin-S. `changes` replaces options, e.g. `pretrained=False`."""
    return IIWA(replace(IIWA_S, **changes), num_classes)


def iiwa_b(num_classes: int = 150, **changes: Any) -> IIWA:
    """IIWA on Swin-B (384 pixels, ImageNet-22k). `changes` replaces options."""
    return IIWA(replace(IIWA_B, **changes), num_classes)


def iiwa_l(num_classes: int = 150, **changes: Any) -> IIWA:
    """IIWA on Swin-L (384 pixels, ImageNet-22k). `changes` replaces options."""
    return IIWA(replace(IIWA_L, **changes), num_classes)


def build(recipe: Recipe, num_classes: int) -> IIWA:
    """Return the network of a recipe with its initial weights."""
    assert isinstance(recipe.model, IIWAModel)
    return IIWA(recipe.model, num_classes, recipe.loss)
