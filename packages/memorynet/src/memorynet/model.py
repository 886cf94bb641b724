"""MemoryNet: backbone, head with the memory, auxiliary heads, training step, and the variants of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import timm.models
import torch.nn.functional as F
from torch import Tensor, nn

from memorynet.context import AtrousPyramid, ObjectContext, PyramidPooling
from memorynet.head import FirstHead, MemoryHead
from memorynet.levels import ConcatenatedLevels, LastLevel, NormalizedLevels
from memorynet.memory import MemorySettings
from memorynet.options import HRNET_W48, R50, R101, S101, VIT_L, MemoryNetModel
from segcore.backbones import Backbone, create_backbone, plain
from segcore.backbones.pretrained import check_name
from segcore.data.labels import IGNORE
from segcore.errors import InputError, check
from segcore.layers.fcn_head import FCNHead
from segcore.losses import SegmentationLoss, at_least_float32, pixel_accuracy
from segcore.recipe import Loss, Recipe
from segcore.segmentor import EncoderDecoder, StepInfo, Target, resize

_TRANSFORMER_UPSAMPLE = 4
"""Nearest, after each of the two convolutions of a transformer's auxiliary heads."""


_ROUNDING = 1e-9


class MemorySegmentor(EncoderDecoder):
    """A segmentation network whose head has a memory: what training adds to `EncoderDecoder`.

    Args:
        backbone: gives a list of feature maps.
        head: with the memory, on any first head.
        loss: of every prediction; by default the published one, cross entropy averaged over labeled pixels.
        levels: between backbone and heads; by default nothing.
        auxiliary: further heads on the same levels.
        auxiliary_weight, first_weight, consistency_weight: factors of the losses of the auxiliary heads, the first
            prediction, and the final classifier on the memory rows (from the second epoch on).
        first_classifier: prefix of the tensors of `head.first` that depend on the number of classes.
    """

    head: MemoryHead

    def __init__(
        self,
        backbone: nn.Module,
        head: MemoryHead,
        num_classes: int,
        loss: SegmentationLoss | None = None,
        *,
        levels: nn.Module | None = None,
        auxiliary: Sequence[nn.Module] = (),
        auxiliary_weight: float = 0.4,
        first_weight: float = 0.4,
        consistency_weight: float = 0.0,
        first_classifier: str = "classifier",
    ) -> None:
        auxiliary_classifiers = (f"auxiliary.{i}.classifier." for i in range(len(auxiliary)))
        super().__init__(
            backbone,
            head,
            num_classes,
            loss or SegmentationLoss(Loss(average="valid")),
            nn.ModuleList(auxiliary),
            auxiliary_weight,
            classifiers=(
                "head.memory.",
                f"head.first.{first_classifier}.",
                "head.classify.classifier.",
                *auxiliary_classifiers,
            ),
        )
        self.levels = levels or nn.Identity()
        self.first_weight, self.consistency_weight = first_weight, consistency_weight

    def _encode(self, image: Tensor) -> tuple[list[Tensor], tuple[int, int]]:
        features, legal = super()._encode(image)
        return self.levels(features), legal

    def _coarse(self, features: Sequence[Tensor], auxiliary: Sequence[Tensor] = ()) -> Tensor | None:
        """Return class logits for the object context: the last auxiliary head's, at the size of the last level."""
        if not isinstance(self.head.context, ObjectContext) or not self.auxiliary:
            return None
        logits = auxiliary[-1] if auxiliary else self.auxiliary[-1](features)
        return resize(logits, (features[-1].shape[-2], features[-1].shape[-1]))

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) -> logits (B, K, h, w), see `Segmentor.forward`; the memory is only read."""
        size = (image.shape[-2], image.shape[-1])
        features, legal = self._encode(image)
        return self._cut(self.head(features, self._coarse(features)), legal, size)

    def losses(self, image: Tensor, target: Target, step: StepInfo) -> dict[str, Tensor]:
        """Return decode, first and aux_<i> losses, memory.loss_consistency and decode.acc_seg; update the memory.

        The order is the published one (memorynet/PAPER 4): the memory of the step before is read, the updated one
        takes part in the gradient and in the consistency loss before processes average it.
        """
        size = (image.shape[-2], image.shape[-1])
        _check_statistics(self, image)
        features, legal = self._encode(image)
        pixels, first = self.head.first.pixels(features)
        label = F.pad(target.label, (0, legal[1] - size[1], 0, legal[0] - size[0]), value=IGNORE)
        updated = self.head.memory.updated(pixels, label, step.lr)
        auxiliary = [head(features) for head in self.auxiliary or ()]
        coarse = self._coarse(features, auxiliary)
        final = self.head.second(features, pixels, first, coarse=coarse, updated=updated)
        predictions = [("decode", 1.0, final), ("first", self.first_weight, first)]
        predictions += [(f"aux_{i}", self.auxiliary_weight, logits) for i, logits in enumerate(auxiliary)]
        result: dict[str, Tensor] = {}
        for prefix, weight, logits in predictions:
            logits = resize(self._cut(at_least_float32(logits), legal, size), size)  # (B, K, H, W)
            for name, value in self.loss(logits, target.label).items():
                result[f"{prefix}.{name}"] = weight * value
            if prefix == "decode":
                result["decode.acc_seg"] = pixel_accuracy(logits.detach(), target.label)
        if self.consistency_weight > 0 and step.epoch > 1:
            result["memory.loss_consistency"] = self.consistency_weight * self.head.consistency(updated)
        self.head.memory.store(updated, label)
        return result


def _check_statistics(model: MemorySegmentor, image: Tensor) -> None:
    """Raise where a batch norm would see a single value per channel: of pooled maps, or of the memory rows."""
    if model.consistency_weight > 0 and model.head.memory.rows[..., 0].numel() == 1:
        raise InputError("--model.consistency-loss needs more than one memory row; this data set has one class")
    is_pooled = isinstance(model.head.context, (AtrousPyramid, PyramidPooling))
    is_alone = len(image) == 1 and model.training
    if is_pooled and is_alone and not any(isinstance(m, nn.SyncBatchNorm) for m in model.head.modules()):
        raise InputError(
            "the pooled branches of --model.context aspp and ppm need at least two images per process and accumulation "
            "step; raise --data.batch, or choose --model.context none"
        )


class MemoryNet(MemorySegmentor):
    """MemoryNet (https://arxiv.org/abs/2108.11819): logits at the stride of the head's map.

    Args:
        options: backbone, context, memory.
        num_classes: K.
        loss: training loss; the published one is cross entropy averaged over labeled pixels.

    Raises:
        InputError: the backbone is unknown, has too few levels, or its weights cannot be had.
    """

    def __init__(self, options: MemoryNetModel, num_classes: int, loss: Loss | None = None) -> None:
        backbone = _backbone(options)
        levels = _levels(options, backbone)
        loss = loss or Loss(average="valid")
        head = MemoryHead(
            FirstHead(levels.channels[-1], options.width, num_classes, options.dropout, options.activation),
            num_classes,
            settings=MemorySettings(**{f.name: getattr(options, f.name) for f in fields(MemorySettings)}),
            context=_context(options, levels.channels[-1]),
            attention_width=options.attention_width,
            dropout=options.dropout,
            activation=options.activation,
        )
        super().__init__(
            backbone,
            head,
            num_classes,
            SegmentationLoss(loss),
            levels=levels,
            auxiliary=_auxiliary(options, levels.channels, num_classes),
            auxiliary_weight=loss.auxiliary,
            first_weight=options.first_loss,
            consistency_weight=options.consistency_loss,
            first_classifier="classify.classifier",
        )
        _initialize(self.levels, self.head, *(self.auxiliary or ()))


def _backbone(options: MemoryNetModel) -> Backbone:
    check_name(options.backbone)
    changes: dict[str, Any] = {"output_stride": options.output_stride}
    is_transformer = timm.models.is_model_in_modules(options.backbone, plain.MODULES)
    if (options.transformer_layers or options.image_size) and not is_transformer:
        raise InputError(
            f"--model.backbone {options.backbone} is no plain transformer, which --model.transformer-layers and "
            "--model.image-size are for; start from a recipe of another backbone"
        )
    if options.transformer_layers:
        changes |= {"layers": options.transformer_layers, "position_resize": "bilinear"}
    if options.image_size:
        changes["img_size"] = options.image_size
    if options.backbone.split(".")[0].startswith("hrnet"):
        changes["stem_relu"] = False  # all published HRNet models were trained so (memorynet/PAPER P1)
    return create_backbone(options.backbone, options.pretrained, options.weights, options.backbone_norm, **changes)


def _levels(options: MemoryNetModel, backbone: Backbone) -> LastLevel | ConcatenatedLevels | NormalizedLevels:
    needed = 2 if options.auxiliary and options.levels != "concatenated" else 1
    if len(backbone.channels) < needed:
        raise InputError(
            f"--model.backbone {options.backbone} has {len(backbone.channels)} feature level; the auxiliary head needs "
            "a second one: choose another backbone, or --model.auxiliary false"
        )
    if options.levels == "concatenated":
        return ConcatenatedLevels(backbone.channels, options.reduction, options.activation)
    return NormalizedLevels(backbone.channels) if options.levels == "layers" else LastLevel(backbone.channels)


def _context(options: MemoryNetModel, in_channels: int) -> nn.Module | None:
    if options.context == "aspp":
        return AtrousPyramid(in_channels, options.width, options.dilations, options.activation)
    if options.context == "ppm":
        return PyramidPooling(in_channels, options.width, options.activation)
    if options.context == "ocr":
        return ObjectContext(options.width, options.attention_width, options.activation)
    return None


def _auxiliary(options: MemoryNetModel, channels: Sequence[int], num_classes: int) -> list[FCNHead]:
    if not options.auxiliary:
        return []
    is_transformer = options.levels == "layers"
    indices = range(len(channels) - 1) if is_transformer else [max(len(channels) - 2, 0)]
    return [
        FCNHead(
            channels[index],
            options.width,
            num_classes,
            index=index,
            num_convs=2 if is_transformer else 1,
            dropout=options.dropout,
            upsample=_TRANSFORMER_UPSAMPLE if is_transformer else 1,
            activation=options.activation,
        )
        for index in indices
    ]


def _initialize(*parts: nn.Module) -> None:
    """Give convolutions PyTorch's initial values, as published; mmcv's blocks bring their own."""
    for module in (module for part in parts for module in part.modules()):
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()


def memorynet_r50(num_classes: int = 150, **changes: Any) -> MemoryNet:
    """MemoryNet on ResNet-50 with dilations. `changes` replaces options, e.g. `pretrained=False`."""
    return MemoryNet(replace(R50, **changes), num_classes)


def memorynet_r101(num_classes: int = 150, **changes: Any) -> MemoryNet:
    """MemoryNet on ResNet-101 with dilations. `changes` replaces options."""
    return MemoryNet(replace(R101, **changes), num_classes)


def memorynet_s101(num_classes: int = 150, **changes: Any) -> MemoryNet:
    """MemoryNet on ResNeSt-101 with dilations. `changes` replaces options."""
    return MemoryNet(replace(S101, **changes), num_classes)


def memorynet_hrnet_w48(num_classes: int = 150, **changes: Any) -> MemoryNet:
    """MemoryNet on HRNetV2-W48. `changes` replaces options; on LIP and Cityscapes, `reduction=True`."""
    return MemoryNet(replace(HRNET_W48, **changes), num_classes)


def memorynet_vit_large(num_classes: int = 150, **changes: Any) -> MemoryNet:
    """MemoryNet on ViT-Large; ADE20K has `dilations=(1, 6, 12, 18)`. `changes` replaces options."""
    return MemoryNet(replace(VIT_L, **changes), num_classes)


def build(recipe: Recipe, num_classes: int) -> MemoryNet:
    """Return the network of a recipe with its initial weights."""
    options = recipe.model
    assert isinstance(options, MemoryNetModel)
    if options.momentum_lr > 0:
        momentum = options.momentum / options.momentum_lr * recipe.optim.lr
        check(
            momentum <= 1 + _ROUNDING,
            f"--optim.lr {recipe.optim.lr:g} makes the memory's momentum {momentum:.3g}, more than 1; set "
            f"--model.momentum-lr {recipe.optim.lr:g} too, which keeps it at {options.momentum:g}",
        )
    return MemoryNet(options, num_classes, recipe.loss)
