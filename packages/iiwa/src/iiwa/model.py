"""IIWA: backbone, neck and decoder, and the variants of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from iiwa.decoder import Decoder
from iiwa.neck import CascadeNeck
from iiwa.options import IIWA_B, IIWA_L, IIWA_S, IIWAModel
from segcore.backbones import Backbone, create_backbone
from segcore.errors import InputError
from segcore.layers.linear import use_onednn
from segcore.losses import SegmentationLoss, pixel_accuracy
from segcore.recipe import Loss, Recipe
from segcore.segmentor import EncoderDecoder, StepInfo, Target, resize

_LEVELS = 4


class IIWAHead(nn.Module):
    """Neck and decoder: four feature maps, fine to coarse -> logits (B, K, h, w) at `head_scale` times the last one."""

    def __init__(self, options: IIWAModel, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.neck = CascadeNeck(
            channels,
            strides,
            options.fusion_heads,
            options.fusion_window,
            rounds=options.fusion_rounds,
            fusion=options.fusion,
            dropout=options.fusion_dropout,
        )
        self.decoder = Decoder(
            channels[-1],
            channels[:-1],
            num_classes,
            embed_dim=options.embed_dim,
            query_dim=options.query_dim,
            depth=options.decoder_depth,
            heads=options.decoder_heads,
            window=options.decoder_window,
            mlp_ratio=options.decoder_mlp_ratio,
            attn_dropout=options.decoder_attn_dropout,
            dropout=options.decoder_dropout,
            drop_path=options.decoder_drop_path,
            head_scale=options.head_scale,
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.decoder(self.decoder.embed(features[-1]), self.neck(features))

    def with_auxiliary(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the logits, and the auxiliary ones (B, K, h4, w4) of the query stem."""
        embedded = self.decoder.embed(features[-1])
        return self.decoder(embedded, self.neck(features)), self.decoder.auxiliary(embedded)


class IIWA(EncoderDecoder):
    """IIWA (iiwa/PAPER): logits at stride 2 on the published backbones.

    Args:
        options: backbone, neck and decoder.
        num_classes: K.
        loss: training loss; published: hard pixels only (OHEM), class weights on Cityscapes, averaged over all pixels.

    Raises:
        InputError: the backbone is unknown, has other than four levels, its channels do not fit the heads, or its
            weights cannot be had.
    """

    head: IIWAHead

    def __init__(self, options: IIWAModel, num_classes: int, loss: Loss | None = None) -> None:
        name, changes = options.backbone, options.backbone_changes()
        backbone = create_backbone(name, options.pretrained, options.weights, options.backbone_norm, **changes)
        _check_levels(options, backbone)
        head = IIWAHead(options, backbone.channels, backbone.strides, num_classes)
        settings = loss or Loss(ohem=True)
        super().__init__(
            backbone,
            head,
            num_classes,
            SegmentationLoss(settings),
            auxiliary_weight=settings.auxiliary,
            classifiers=("head.decoder.head.classifier.", "head.decoder.auxiliary_classifier."),
        )
        use_onednn(self)  # nearly all of the work is in linear layers

    def losses(self, image: Tensor, target: Target, step: StepInfo) -> dict[str, Tensor]:
        """Return decode.loss_*, aux_0.loss_* (the query stem's) and decode.acc_seg (percent of labeled pixels)."""
        size = (image.shape[-2], image.shape[-1])
        features, legal = self._encode(image)
        main, auxiliary = (
            resize(self._cut(logits.float(), legal, size), size) for logits in self.head.with_auxiliary(features)
        )
        result = {f"decode.{name}": value for name, value in self.loss(main, target.label).items()}
        result["decode.acc_seg"] = pixel_accuracy(main.detach(), target.label)
        for name, value in self.loss(auxiliary, target.label).items():
            result[f"aux_0.{name}"] = self.auxiliary_weight * value
        return result


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
