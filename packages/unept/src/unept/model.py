"""UN-EPT: queries of the image's pixels to a feature pyramid, and boundaries that refine the training.

https://arxiv.org/abs/2107.14209, in its order (unept/PAPER 3 and 4): spatial branch, boundary heads, head with the
context branch of `context.py`, losses, network. Published tensor names are in `names.py`.

total = 0.8 CE(S) + 5 L_boundary + 0.6 L_direction + CE(R), where R are the logits S one pixel further along the
predicted direction, at predicted boundary pixels. The softmax is taken once: R's probabilities are gathered ones.
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
from segcore.data.labels import IGNORE
from segcore.errors import InputError, check
from segcore.losses import SegmentationLoss, at_least_float32, cross_entropy, pixel_accuracy
from segcore.recipe import Loss, Recipe
from segcore.segmentor import EncoderDecoder, Losses, StepInfo, Target, resize
from segcore.training.batches import target_of_labels
from unept.boundary.source import BoundarySource
from unept.context import ContextBranch
from unept.recipes import STRIDE, UNEPT_DEIT, UNEPT_R50, UNEPTModel

DIRECTIONS = ((0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1))
"""(dy, dx) of the eight direction bins, pixels: bin 0 points west, 2 north (up), 4 east, 6 south (unept/PAPER 4)."""
NUM_DIRECTIONS = len(DIRECTIONS)
BOUNDARY_DISTANCE = 5
"""Pixels of the original image: up to here from another label a pixel counts as boundary."""
SHIFT_LOGIT = 0.5
"""A pixel is shifted where its raw boundary logit exceeds this; the direction loss asks the softmax, as published."""
WEIGHTS = {"ce": 0.8, "boundary": 5.0, "direction": 0.6, "refined": 1.0}
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


class BoundaryLabels(NamedTuple):
    """What the boundary heads are compared with; 255 takes no part.

    Shapes:
        is_boundary (B, H, W) int64, 0 or 1; direction (B, H, W) int64, 0 to 7, where predicted as boundary
    """

    is_boundary: Tensor
    direction: Tensor


def at_label_size(prediction: Tensor, padded: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Bring a boundary head's output to label size, with align_corners True, unlike the logits (unept/PAPER 4).

    Args:
        padded: size of the image in the network, of which `size` is the top left.

    Shapes:
        (B, C, h, w) -> (B, C, *size), float32 at least
    """
    full = F.interpolate(at_least_float32(prediction), size=padded, mode="bilinear", align_corners=True)
    return full[..., : size[0], : size[1]]


def direction_bins(angle: Tensor) -> Tensor:
    """Return the direction bin of angles in degrees, -180 to 180: bin i is centered at -180 + 45 i, half-open (lo, hi].

    Angles above 157.5, and the 255 of the padding, are bin 0, west, like those up to -157.5.

    Shapes:
        (...) -> (...) int64, 0 to 7
    """
    bins = torch.ceil((angle + 157.5) / 45).clamp(min=0).long()
    return bins.masked_fill(bins >= NUM_DIRECTIONS, 0)


def rarity_weights(label: Tensor, num_classes: int) -> Tensor:
    """Return 1 - the share of each class among the pixels that take part; 1 for all where there are none.

    Shapes:
        label (...) int64, 255 = takes no part -> (num_classes,) float32
    """
    classes = torch.arange(num_classes, device=label.device)
    # compared, not torch.bincount: its output's size makes a GPU wait, and breaks the graph under torch.compile
    counts = (label.flatten() == classes[:, None]).sum(dim=1)
    return 1 - counts.float() / counts.sum().clamp(min=1)


def shifted_pixels(is_moved: Tensor, direction: Tensor, directions: Tensor) -> Tensor:
    """Return for every pixel the one a step away along its direction, clamped to the image; itself where not moved.

    Args:
        is_moved: bool, pixels that are shifted.
        direction: direction bins, int64.
        directions: `DIRECTIONS` on the device.

    Shapes:
        is_moved, direction (B, H, W); directions (8, 2) int64 -> (B, H, W) int64, indices y * W + x
    """
    height, width = direction.shape[-2:]
    step = directions[direction] * is_moved[..., None]  # (B, H, W, 2)
    y = torch.arange(height, device=direction.device)[:, None] + step[..., 0]
    x = torch.arange(width, device=direction.device) + step[..., 1]
    return y.clamp(0, height - 1) * width + x.clamp(0, width - 1)


class RefinementLoss(SegmentationLoss):
    """The four losses, unweighted.

    Args:
        settings: `average` and `class_weight` hold for both cross entropies over the classes.
        void_is_boundary: off leaves pixels without a label out of the boundary losses.

    Raises:
        InputError: for settings that this loss does not have; in the first call, for a wrong number of class weights.
    """

    directions: Tensor

    def __init__(self, settings: Loss, *, void_is_boundary: bool = True) -> None:
        super().__init__(settings)
        check(not settings.ohem, "--loss.ohem: UN-EPT's losses have no selection of hard pixels; leave it off")
        check(settings.dice == 0, "--loss.dice: UN-EPT has no dice loss; leave it at 0")
        self.void_is_boundary = void_is_boundary
        self.register_buffer("directions", torch.tensor(DIRECTIONS), persistent=False)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, logits: Tensor, boundary: Tensor, direction: Tensor, target: Target
    ) -> dict[str, Tensor]:
        """Return "ce", "boundary", "direction" and "refined", each a float32 scalar.

        Args:
            boundary, direction: outputs of the boundary heads `at_label_size`.

        Shapes:
            logits (B, K, H, W), boundary (B, 2, H, W), direction (B, 8, H, W)
        """
        if target.boundary_distance is None or target.boundary_angle is None:
            raise ValueError("UN-EPT trains on boundary maps: expected boundary_distance and boundary_angle, got None")
        self.check_classes(logits)
        with torch.autocast(logits.device.type, enabled=False):
            logits, boundary, direction = (at_least_float32(part) for part in (logits, boundary, direction))
            targets = self.boundary_targets(boundary, target)
            ce, refined = self._class_losses(logits, target.label, self.shift(boundary, direction))
            return {
                "ce": ce,
                "boundary": _rare_cross_entropy(boundary, targets.is_boundary),
                "direction": _rare_cross_entropy(direction, targets.direction),
                "refined": refined,
            }

    @torch.no_grad()
    def boundary_targets(self, boundary: Tensor, target: Target) -> BoundaryLabels:
        """Return the targets, given the boundary logits (B, 2, H, W): directions count where those say boundary."""
        distance, angle = target.boundary_distance, target.boundary_angle
        assert distance is not None
        assert angle is not None
        is_boundary = ((distance >= 0) & (distance <= BOUNDARY_DISTANCE)).long()
        # softmax > 0.5; not the true boundary: the directions are learnt where they will be used
        bins = direction_bins(angle).masked_fill(boundary[:, 1] <= boundary[:, 0], IGNORE)
        if not self.void_is_boundary:
            is_void = target.label == IGNORE
            return BoundaryLabels(is_boundary.masked_fill(is_void, IGNORE), bins.masked_fill(is_void, IGNORE))
        return BoundaryLabels(is_boundary, bins)

    @torch.no_grad()
    def shift(self, boundary: Tensor, direction: Tensor) -> Tensor:
        """Return where the refined logits of every pixel come from, given both predictions at full size.

        Shapes:
            boundary (B, 2, H, W), direction (B, 8, H, W) -> (B, H, W) int64, indices y * W + x
        """
        return shifted_pixels(boundary[:, 1] > SHIFT_LOGIT, direction.argmax(dim=1), self.directions)

    def _class_losses(self, logits: Tensor, label: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cross entropy of the logits, and of the logits gathered at other pixels.

        -log softmax(S)[class] = logsumexp(S) - S[class], at the pixel itself and where it is shifted to: one pass over
        all classes, then two numbers per pixel.
        """
        num_classes = logits.shape[1]
        is_labeled = label != IGNORE
        label = label.masked_fill(~is_labeled, 0).flatten(1)  # (B, H*W)
        pixels = pixels.flatten(1)
        own = torch.arange(pixels.shape[1], device=label.device).expand_as(pixels)
        places = torch.cat([own, pixels], dim=1) * num_classes + label.repeat(1, 2)  # (B, 2*H*W)
        # classes last, as the classifier's output lies in memory: no copy of the largest tensor here
        chosen = logits.permute(0, 2, 3, 1).flatten(1).gather(1, places)
        normalizer = logits.logsumexp(dim=1).flatten(1)
        loss = torch.cat([normalizer, normalizer.gather(1, pixels)], dim=1) - chosen
        own_loss, shifted_loss = loss.chunk(2, dim=1)
        weight = self._pixel_weight(label, is_labeled.flatten(1))
        return (own_loss * weight).sum(), (shifted_loss * weight).sum()

    def _pixel_weight(self, label: Tensor, is_labeled: Tensor) -> Tensor:
        """Return each pixel's share of the average; label is any class where there is none. Shapes: all (B, H*W)."""
        weight = is_labeled.float()
        if self.class_weight is not None:
            weight = weight * self.class_weight[label]
        if self.settings.average == "valid":
            return weight / is_labeled.sum().clamp(min=1)
        return weight / label.numel()


def _rare_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Return the cross entropy with the classes weighted by rarity, over the sum of weights; 0 where that is 0.

    The released code divides by zero where no boundary is predicted, or all of a crop is one class, and is lost.
    """
    weight = rarity_weights(label, logits.shape[1])
    return cross_entropy(logits, label, average="weight", class_weight=weight)


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
