"""UN-EPT: queries of the image's pixels to a feature pyramid, and boundaries that refine the training.

https://arxiv.org/abs/2107.14209, in its order (unept/PAPER 3 and 4): spatial branch, boundary heads, head with the
context branch of `context.py`, network with the losses of `refinement.py`. Published tensor names are in `names.py`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from segcore.backbones import create_backbone
from segcore.backbones.unread import freeze_unread
from segcore.errors import InputError
from segcore.losses import pixel_accuracy
from segcore.recipe import Loss, Recipe
from segcore.segmentor import EncoderDecoder, Losses, StepInfo, Target, resize
from segcore.training.batches import target_of_labels
from unept.boundary.source import BoundarySource
from unept.context import ContextBranch
from unept.recipes import STRIDE, UNEPT_DEIT, UNEPT_R50, UNEPTModel
from unept.refinement import NUM_DIRECTIONS, WEIGHTS, RefinementLoss, at_label_size

_MUCH_PADDING = 1.2  # pixels of the padded crop by those of the crop
log = logging.getLogger(__name__)


class Predictions(NamedTuple):
    """What the head says in training.

    Shapes (stride 8: h = H/8, w = W/8):
        logits (B, K, h, w); boundary (B, 2, h, w), channel 1 = boundary; direction (B, 8, h, w), bins of `DIRECTIONS`
    """

    logits: Tensor
    boundary: Tensor
    direction: Tensor


class SpatialBranch(nn.Sequential):
    """Three convolutions that bring the image to stride 8; no ReLU after the last (unept/PAPER 3.1).

    Shapes:
        image (B, 3, H, W) -> (B, C, h, w), h = ceil(H/8), w = ceil(W/8)
    """

    def __init__(self, width: int) -> None:
        widths = (3, width // 4, width // 2, width)
        layers: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            layers += [nn.Conv2d(narrow, wide, 3, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
        super().__init__(*layers[:-1])


def boundary_head(width: int, outputs: int) -> nn.Sequential:
    """Return a head on the spatial branch: (B, C, h, w) -> (B, outputs, h, w) (unept/PAPER 3.2)."""
    return nn.Sequential(
        nn.Conv2d(width, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, outputs, 1, bias=False),
    )


class UNEPTHead(nn.Module):
    """Image and feature pyramid -> class logits at stride 8.

    The boundary heads are trained beside the classifier and left out at test time, as published.

    Args:
        channels: of the pyramid's levels.
        num_classes: K.

    Shapes:
        features: the image (B, 3, H, W), then the backbone's maps, of which the last L (B, C_i, h_i, w_i) are used
        -> (B, K, h, w), h = H/8, w = W/8
    """

    def __init__(self, channels: Sequence[int], num_classes: int, options: UNEPTModel) -> None:
        super().__init__()
        assert len(channels) == options.levels
        width = options.width
        self.options = options
        self.side = options.window // STRIDE  # queries along each axis
        self.spatial = SpatialBranch(width)
        self.boundary = boundary_head(width, 2)
        self.direction = boundary_head(width, NUM_DIRECTIONS)
        self.levels = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.query_embedding = nn.Parameter(torch.empty(self.side**2, width))
        nn.init.normal_(self.query_embedding)
        self.context = ContextBranch(options)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self._classify(self.spatial(features[0]), features)

    def predictions(self, features: Sequence[Tensor]) -> Predictions:
        """Return the logits together with the boundary heads' outputs."""
        spatial = self.spatial(features[0])
        return Predictions(self._classify(spatial, features), self.boundary(spatial), self.direction(spatial))

    def _classify(self, spatial: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Spatial branch (B, C, h, w) and features -> logits (B, K, h, w)."""
        height, width = spatial.shape[-2:]
        levels = [project(level) for project, level in zip(self.levels, features[-len(self.levels) :], strict=True)]
        queries = rearrange(spatial, "b c h w -> b (h w) c") + self._queries(height, width)
        context = self.context(levels, queries, (height, width))
        return self.classifier(rearrange(context, "b (h w) c -> b c h w", h=height))

    def _queries(self, height: int, width: int) -> Tensor:
        """Return the learnt embedding of every query, (h*w, C); stretched for another size than the table's."""
        if (height, width) == (self.side, self.side):
            return self.query_embedding
        if not self.options.resize_queries:
            raise InputError(_wrong_size(self.options, height * STRIDE, width * STRIDE))
        table = rearrange(self.query_embedding, "(h w) c -> 1 c h w", h=self.side)
        stretched = F.interpolate(table, size=(height, width), mode="bicubic", align_corners=False)
        return rearrange(stretched, "1 c h w -> (h w) c")


def _wrong_size(options: UNEPTModel, height: int, width: int) -> str:
    """Return the sentence for an input that is not the window."""
    window = options.window
    return (
        f"this network takes windows of {window}x{window} pixels, got {height}x{width}: test with --evaluate.mode "
        f"slide --evaluate.crop {window} {window}, train with --augment.crop {window} {window} (or another "
        "--model.window), or add --model.resize-queries true, an extension for any size"
    )


def _backbone_changes(options: UNEPTModel) -> dict[str, Any]:
    """Return what the published backbones are asked for (unept/PAPER 2); all others give levels of their own."""
    if is_resnet_c(options):
        return {"output_stride": STRIDE}  # all three levels at stride 8
    if options.backbone.split(".")[0] == UNEPT_DEIT.backbone:
        # all three levels at stride 16; the position table is stretched without a low-pass filter
        return {"img_size": options.window, "layers": (4, 8, 12), "position_resize": "bicubic"}
    return {}


def is_resnet_c(options: UNEPTModel) -> bool:
    """Return whether the backbone is a published ResNet, whose tensor names are OpenMMLab's."""
    return options.backbone.split(".")[0] in ("resnet50c", "resnet101c")


class UNEPT(EncoderDecoder):
    """UN-EPT (https://arxiv.org/abs/2107.14209): logits at stride 8, for square windows of `options.window` pixels.

    Smaller inputs are zero-padded to the window. Larger ones are tested in sliding windows, or, as an extension, whole
    with `options.resize_queries`.

    Args:
        options: backbone, window, width and depth of the context branch.
        num_classes: K.
        loss: how the class losses are averaged and weighted.

    Raises:
        InputError: the backbone is unknown, has too few levels, cannot take the window, or its weights cannot be had;
            in a call, the input is larger than the window.
    """

    head: UNEPTHead
    loss_only = ("head.boundary.", "head.direction.")

    def __init__(self, options: UNEPTModel, num_classes: int, loss: Loss | None = None) -> None:
        backbone = create_backbone(
            options.backbone, options.pretrained, options.weights, options.backbone_norm, **_backbone_changes(options)
        )
        if len(backbone.channels) < options.levels:
            raise InputError(
                f"--model.backbone {options.backbone} has feature maps at strides {list(backbone.strides)}; "
                f"UN-EPT needs {options.levels} levels (--model.levels), choose a backbone with more"
            )
        freeze_unread(backbone, range(-options.levels, 0))
        head = UNEPTHead(backbone.channels[-options.levels :], num_classes, options)
        refinement = RefinementLoss(loss or Loss(), void_is_boundary=options.void_is_boundary)
        super().__init__(backbone, head, num_classes, refinement)
        self.options = options
        self._is_warned = False
        self.divisor = math.lcm(STRIDE, backbone.strides[-options.levels])  # whole queries, and whole patches
        legal = self._rounded(options.window, options.window)
        if legal != (options.window, options.window):
            raise InputError(
                f"--model.window {options.window}: {options.backbone} needs {legal[0]} pixels in its place; choose that"
            )

    def legal_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the window; with `resize_queries` the next size of whole queries that the backbone takes.

        Raises:
            InputError: if the input is larger than the window.
        """
        if not self.options.resize_queries:
            if max(height, width) > self.options.window:
                raise InputError(_wrong_size(self.options, height, width))
            return self.options.window, self.options.window
        return self._rounded(height, width)

    def _rounded(self, height: int, width: int) -> tuple[int, int]:
        """Return the next size of whole queries and patches that the backbone takes."""
        while True:
            whole = (-(-height // self.divisor) * self.divisor, -(-width // self.divisor) * self.divisor)
            height, width = self.backbone.legal_size(*whole)  # pyright: ignore[reportCallIssue]
            if (height, width) == whole:
                return whole

    def _encode(self, image: Tensor) -> tuple[list[Tensor], tuple[int, int]]:
        """Return the padded image and its feature maps, which the head reads together, and the padded size."""
        image = self._pad(image)
        return [image, *self.backbone(image)], (image.shape[-2], image.shape[-1])

    def losses(self, image: Tensor, target: Target, step: StepInfo) -> Losses:
        """Return the weighted decode.loss_{ce, boundary, direction, refined}; decode.acc_seg (percent) is logged.

        A target without boundary maps gets those of its label here, on the CPU; training has them from its loader.
        """
        if target.boundary_distance is None:
            target = target_of_labels(target.label, BoundarySource(self.options.mirror_angles))
        size = (image.shape[-2], image.shape[-1])
        self._warn_of_padding(*size)
        features, legal = self._encode(image)
        said = self.head.predictions(features)
        logits = resize(self._cut(said.logits, legal, size), size)  # (B, K, H, W)
        boundary, direction = (at_label_size(part, legal, size) for part in (said.boundary, said.direction))
        terms = self.loss(logits, boundary, direction, target)
        weighted = {f"decode.loss_{name}": WEIGHTS[name] * value for name, value in terms.items()}
        return Losses(weighted, {"decode.acc_seg": pixel_accuracy(logits.detach(), target.label)})

    def _warn_of_padding(self, height: int, width: int) -> None:
        """Say once that crops are smaller than the window: the published code refuses them (unept/PAPER 7.2)."""
        if self._is_warned or torch.compiler.is_compiling():
            return
        self._is_warned = True
        legal = self.legal_size(height, width)
        share = legal[0] * legal[1] / (height * width)
        if share >= _MUCH_PADDING:
            log.warning(
                "training crops of %dx%d pixels are padded to the window, %dx%d: %.1f times the pixels; "
                "make --augment.crop and --model.window the same, as published",
                height,
                width,
                *legal,
                share,
            )


def unept_r50(num_classes: int = 150, **changes: Any) -> UNEPT:
    """UN-EPT on the dilated ResNet-50. `changes` replaces options, e.g. `pretrained=False`."""
    return UNEPT(replace(UNEPT_R50, **changes), num_classes)


def unept_deit(num_classes: int = 150, **changes: Any) -> UNEPT:
    """UN-EPT on distilled DeiT-B. `changes` replaces options."""
    return UNEPT(replace(UNEPT_DEIT, **changes), num_classes)


def build(recipe: Recipe, num_classes: int) -> UNEPT:
    """Return the network of a recipe with its initial weights."""
    assert isinstance(recipe.model, UNEPTModel)
    return UNEPT(recipe.model, num_classes, recipe.loss)
