"""UN-EPT: backbone, head, losses, and the two published networks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from segcore.backbones import create_backbone
from segcore.errors import InputError
from segcore.losses import pixel_accuracy
from segcore.recipe import Loss, Recipe
from segcore.segmentor import EncoderDecoder, StepInfo, Target, resize
from unept.head import UNEPTHead, wrong_size
from unept.losses import WEIGHTS, RefinementLoss, at_label_size
from unept.options import STRIDE, UNEPT_DEIT, UNEPT_R50, UNEPTModel

_RESNETS = ("resnet50c", "resnet101c")


def _backbone_changes(options: UNEPTModel) -> dict[str, Any]:
    """Return what the published backbones are asked for (unept/PAPER 2); all others give levels of their own."""
    name = options.backbone.split(".")[0]
    if name in _RESNETS:
        return {"output_stride": STRIDE}  # all three levels at stride 8
    if name == "deit_base_distilled_patch16_384":
        # all three levels at stride 16; the position table is stretched without a low-pass filter
        return {"img_size": options.window, "layers": (4, 8, 12), "position_resize": "bicubic"}
    return {}


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

    def __init__(self, options: UNEPTModel, num_classes: int, loss: Loss | None = None) -> None:
        backbone = create_backbone(
            options.backbone, options.pretrained, options.weights, options.backbone_norm, **_backbone_changes(options)
        )
        if len(backbone.channels) < options.levels:
            raise InputError(
                f"--model.backbone {options.backbone} has feature maps at strides {list(backbone.strides)}; "
                f"UN-EPT needs {options.levels} levels (--model.levels), choose a backbone with more"
            )
        head = UNEPTHead(backbone.channels[-options.levels :], num_classes, options)
        refinement = RefinementLoss(loss or Loss(), void_is_boundary=options.void_is_boundary)
        super().__init__(backbone, head, num_classes, refinement)
        self.window, self.resize_queries = options.window, options.resize_queries
        self.divisor = math.lcm(STRIDE, backbone.strides[-options.levels])  # whole queries, and whole patches
        legal = self._rounded(options.window, options.window)
        if legal != (options.window, options.window):
            raise InputError(
                f"--model.window {options.window}: {options.backbone} needs {legal[0]} pixels in its place; choose that"
            )
        self.is_resnet_c = options.backbone.split(".")[0] in _RESNETS  # its published names are OpenMMLab's

    def legal_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the window; with `resize_queries` the next size of whole queries that the backbone takes.

        Raises:
            InputError: if the input is larger than the window.
        """
        if not self.resize_queries:
            if max(height, width) > self.window:
                raise InputError(wrong_size(self.window, height, width))
            return self.window, self.window
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

    def losses(self, image: Tensor, target: Target, step: StepInfo) -> dict[str, Tensor]:
        """Return the weighted decode.loss_{ce, boundary, direction, refined} and decode.acc_seg (percent)."""
        size = (image.shape[-2], image.shape[-1])
        features, legal = self._encode(image)
        said = self.head.predictions(features)
        logits = resize(self._cut(said.logits, legal, size), size)  # (B, K, H, W)
        boundary, direction = (at_label_size(part, legal, size) for part in (said.boundary, said.direction))
        terms = self.loss(logits, boundary, direction, target)
        weighted = {f"decode.loss_{name}": WEIGHTS[name] * value for name, value in terms.items()}
        return {**weighted, "decode.acc_seg": pixel_accuracy(logits.detach(), target.label)}


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
