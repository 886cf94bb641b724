"""MemoryNet: what a pixel can know of its class from all images, not from its own alone.

https://arxiv.org/abs/2108.11819, in its order (memorynet/PAPER 1, 3 and 4):

1. A memory holds, for every class, a vector or several: moving averages over the whole data set of the features of the
   class's labeled pixels. Training steps move them; they get no gradient (`memory.py`).
2. A first head gives pixel features X and a first prediction L1. The probabilities of L1 mix the memory's vectors into
   one "beyond image" vector per pixel.
3. Attention, in which X asks the mixed memory, refines it; the result is fused with X, and then with the context of the
   image itself (`context.py`).
4. A final head classifies. Optionally it must classify the memory's vectors, too (consistency loss).

Published tensor names are in `names.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import timm.models
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memorynet.context import (
    AtrousPyramid,
    Attention,
    LastLevel,
    NormalizedLevels,
    ObjectContext,
    PyramidPooling,
    create_auxiliary,
    create_context,
    create_levels,
)
from memorynet.memory import Memory, MemoryRead
from memorynet.recipes import HRNET_W48, R50, R101, S101, VIT_L, MemoryNetModel, MemorySettings
from segcore.backbones import Backbone, check_name, create_backbone, simple_pyramid
from segcore.backbones.unread import freeze_unread, unread_parameters
from segcore.data.labels import IGNORE
from segcore.errors import InputError, check
from segcore.layers.conv import ConvNormAct
from segcore.losses import SegmentationLoss, at_least_float32
from segcore.recipe import Loss, Recipe
from segcore.segmentor import EncoderDecoder, Losses, Prediction, StepInfo, Target, resize

_ROUNDING = 1e-9
log = logging.getLogger(__name__)


@runtime_checkable
class PixelHead(Protocol):
    """A head that a memory can be put on: it exposes pixel features and a first prediction of the same size.

    `segcore.layers.fcn_head.FCNHead` is one; so is any module with these two whose last layer is called `classifier`.

    Attributes:
        channels: of the pixel features.
    """

    channels: int

    def pixels(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Feature levels -> pixel features (B, channels, h, w) and class logits (B, K, h, w)."""
        ...


class ClassifierHead(nn.Module):
    """1x1 convolution, channel dropout, 1x1 classifier: both predictions of MemoryNet (memorynet/PAPER 3.2, 3.6).

    Shapes:
        (B, C, h, w) -> (B, K, h, w)
    """

    def __init__(self, channels: int, num_classes: int, settings: MemorySettings) -> None:
        super().__init__()
        self.transform = ConvNormAct(channels, channels, 1, activation=settings.activation)
        self.dropout = nn.Dropout2d(settings.dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.transform(x)))


class FirstHead(nn.Module):
    """Pixel features X and the first prediction L1 (memorynet/PAPER 3.2), from the last level."""

    def __init__(self, in_channels: int, channels: int, num_classes: int, settings: MemorySettings) -> None:
        super().__init__()
        self.channels = channels
        self.bottleneck = ConvNormAct(in_channels, channels, 3, activation=settings.activation)
        self.classify = ClassifierHead(channels, num_classes, settings)

    def pixels(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return X (B, C, h, w) and L1 (B, K, h, w)."""
        pixels = self.bottleneck(features[-1])
        return pixels, self.classify(pixels)


class MemoryHead(nn.Module):
    """A memory on top of any head that exposes pixel features and a first prediction.

    Args:
        first: gives X and L1.
        num_classes: K.
        settings: of the memory and its training.
        context: last level (B, C_in, h, w) -> (B, C, h, w), or `ObjectContext`; None leaves it out (FCN).

    Shapes:
        feature levels -> (B, K, h, w) at the size of X
    """

    def __init__(
        self,
        first: PixelHead,
        num_classes: int,
        settings: MemorySettings | None = None,
        context: nn.Module | None = None,
    ) -> None:
        super().__init__()
        assert isinstance(first, nn.Module)
        self.settings = settings = settings or MemorySettings()
        channels, activation = first.channels, settings.activation
        self.first = first
        self.memory = Memory(num_classes, channels, settings)
        self.read = MemoryRead(channels, settings)
        self.bottleneck = ConvNormAct(2 * channels, channels, 3, activation=activation)
        self.context = context
        if context is not None:
            self.context_attention = Attention(channels, settings.attention_width, activation)
            self.context_bottleneck = ConvNormAct(2 * channels, channels, 3, activation=activation)
        self.classify = ClassifierHead(channels, num_classes, settings)

    def forward(self, features: Sequence[Tensor], coarse: Tensor | None = None) -> Tensor:
        """Return the final logits; the memory is only read.

        Args:
            coarse: class logits (B, K, h, w) for `ObjectContext`; L1 where there are none.
        """
        pixels, first = self.first.pixels(features)
        return self.second(features, pixels, first, coarse=coarse)

    def second(
        self,
        features: Sequence[Tensor],
        pixels: Tensor,
        first: Tensor,
        *,
        coarse: Tensor | None = None,
        updated: Tensor | None = None,
    ) -> Tensor:
        """Return the final logits from what the first head gave (memorynet/PAPER 3.4 to 3.6).

        Args:
            updated: the memory after this training step, see `MemoryRead.forward`.

        Shapes:
            pixels (B, C, h, w), first and coarse (B, K, h, w), updated (K, S, C) -> (B, K, h, w)
        """
        # a copy: training overwrites the rows before the backward pass, which may still need what was read
        rows = self.memory.rows if updated is None else self.memory.rows.clone()
        beyond = self.read(pixels, first, rows, updated)
        fused = self.bottleneck(torch.cat([pixels, beyond], dim=1))
        if self.context is not None:
            if isinstance(self.context, ObjectContext):
                context = self.context(pixels, first if coarse is None else coarse)
            else:
                context = self.context(features[-1])
            # the published order: context first
            fused = self.context_bottleneck(torch.cat([self.context_attention(pixels, context), fused], dim=1))
        return self.classify(fused)

    def consistency(self, rows: Tensor) -> Tensor:
        """Return the loss of the final classifier on the memory rows themselves, empty ones included.

        In training mode the batch statistics are those of the rows, and the running statistics of the classifier's
        norm take a second step: published so (memorynet/PAPER P4).

        Shapes:
            (K, S, C) -> scalar
        """
        num_classes, slots, channels = rows.shape
        logits = self.classify(rows.reshape(num_classes * slots, channels, 1, 1)).flatten(1)  # (K S, K)
        classes = torch.arange(num_classes, device=rows.device).repeat_interleave(slots)
        return F.cross_entropy(at_least_float32(logits), classes)


class MemorySegmentor(EncoderDecoder):
    """A segmentation network whose head has a memory: what training adds to `EncoderDecoder`.

    Args:
        backbone: gives a list of feature maps.
        head: with the memory, on any first head.
        num_classes: K.
        loss: of every prediction; by default the published one, cross entropy averaged over labeled pixels.
        levels: between backbone and heads; by default nothing.
        auxiliary: further heads on the same levels.
    """

    head: MemoryHead

    def __init__(
        self,
        backbone: nn.Module,
        head: MemoryHead,
        num_classes: int,
        loss: Loss | None = None,
        *,
        levels: nn.Module | None = None,
        auxiliary: Sequence[nn.Module] = (),
    ) -> None:
        loss = loss or Loss(average="valid")
        super().__init__(backbone, head, num_classes, SegmentationLoss(loss), nn.ModuleList(auxiliary), loss.auxiliary)
        self.levels = levels or nn.Identity()
        self._is_warned = False
        # the object context takes the last auxiliary head's logits; a transformer's heads have norms of their own
        unused = range(len(auxiliary) - isinstance(head.context, ObjectContext))
        parts = ("auxiliary", "levels.norms") if isinstance(levels, NormalizedLevels) else ("auxiliary",)
        self.loss_only = tuple(f"{part}.{i}." for part in parts for i in unused)
        classifiers = (f"{name}." for name, _ in self.named_modules() if name.endswith(".classifier"))
        self.classifiers = ("head.memory.", *(name for name in classifiers if not name.startswith("backbone.")))

    def _encode(self, image: Tensor) -> tuple[list[Tensor], tuple[int, int]]:
        features, legal = super()._encode(image)
        return self.levels(features), legal

    def _coarse(self, features: Sequence[Tensor], auxiliary: Sequence[Prediction] = ()) -> Tensor | None:
        """Return class logits for the object context: the last auxiliary head's, at the size of the last level."""
        if not isinstance(self.head.context, ObjectContext) or not self.auxiliary:
            return None
        logits = auxiliary[-1].logits if auxiliary else self.auxiliary[-1](features)
        return resize(logits, (features[-1].shape[-2], features[-1].shape[-1]))

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) -> logits (B, K, h, w), see `Segmentor.forward`; the memory is only read.

        `losses` is the one call that feeds it; without that it stays as it is, and says so where it is empty.
        """
        if self.training:
            _check_statistics(self, image)
            self._warn_of_empty_memory()
        size = (image.shape[-2], image.shape[-1])
        features, legal = self._encode(image)
        return self._cut(self.head(features, self._coarse(features)), legal, size)

    def _warn_of_empty_memory(self) -> None:
        if self._is_warned or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return
        self._is_warned = True  # once, also because looking into the memory waits for the device
        if not self.head.memory.rows.any():
            log.warning(
                "MemoryNet trains with an empty memory: model(image) only reads it; model.losses(image, target, step) "
                "feeds it and returns the losses of the paper"
            )

    def losses(self, image: Tensor, target: Target, step: StepInfo) -> Losses:
        """Return decode, first and aux_<i> losses and memory.loss_consistency; update the memory.

        The order is the published one (memorynet/PAPER 4): the memory of the step before is read, the updated one
        takes part in the gradient and in the consistency loss before processes average it.
        """
        _check_statistics(self, image)
        features, legal = self._encode(image)
        pixels, first = self.head.first.pixels(features)
        bottom, right = legal[0] - image.shape[-2], legal[1] - image.shape[-1]
        label = F.pad(target.label, (0, right, 0, bottom), value=IGNORE)
        updated = self.head.memory.updated(pixels, label, step.lr)
        auxiliary = self._auxiliary_predictions(features)
        coarse = self._coarse(features, auxiliary)
        final = self.head.second(features, pixels, first, coarse=coarse, updated=updated)
        settings = self.head.settings
        predictions = [Prediction("decode", final), Prediction("first", first, settings.first_loss), *auxiliary]
        result = self._losses(predictions, legal, target.label)
        if settings.consistency_loss > 0 and step.epoch > 1:
            result.terms["memory.loss_consistency"] = settings.consistency_loss * self.head.consistency(updated)
        self.head.memory.store(updated, label)
        return result


def _check_statistics(model: MemorySegmentor, image: Tensor) -> None:
    """Raise where a batch norm would see a single value per channel: of pooled maps, or of the memory rows."""
    if model.head.settings.consistency_loss > 0 and model.head.memory.rows[..., 0].numel() == 1:
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
        levels = create_levels(backbone.channels, options)
        channels = levels.channels
        first = FirstHead(channels[-1], options.width, num_classes, options)
        head = MemoryHead(first, num_classes, options, create_context(channels[-1], options))
        auxiliary = create_auxiliary(channels, num_classes, options)
        super().__init__(backbone, head, num_classes, loss, levels=levels, auxiliary=auxiliary)
        if isinstance(levels, LastLevel):
            freeze_unread(backbone, {-1, *(head.index for head in auxiliary)})
            if options.context != "ocr":  # then only losses reads more than the last level
                self.loss_only += tuple(f"backbone.{name}" for name in unread_parameters(backbone, {-1}))
        _initialize(self.levels, self.head, *(self.auxiliary or ()))


def _backbone(options: MemoryNetModel) -> Backbone:
    """Return the backbone with what the options change in it, refused where it does not fit them."""
    check_name(options.backbone)
    changes: dict[str, Any] = {"output_stride": options.output_stride}
    is_transformer = timm.models.is_model_in_modules(options.backbone, simple_pyramid.MODULES)
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
    backbone = create_backbone(options.backbone, options.pretrained, options.weights, options.backbone_norm, **changes)
    needed = 2 if options.auxiliary and options.levels != "concatenated" else 1
    if len(backbone.channels) < needed:
        raise InputError(
            f"--model.backbone {options.backbone} has {len(backbone.channels)} feature level; the auxiliary head needs "
            "a second one: choose another backbone, or --model.auxiliary false"
        )
    return backbone


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
    options, lr = recipe.model, recipe.optim.lr
    assert isinstance(options, MemoryNetModel)
    momentum = options.momentum_at(lr)
    check(
        momentum <= 1 + _ROUNDING,
        f"--optim.lr {lr:g} makes the memory's momentum {momentum:.3g}, more than 1; set --model.momentum-lr {lr:g} "
        f"too, which keeps it at {options.momentum:g}",
    )
    return MemoryNet(options, num_classes, recipe.loss)
