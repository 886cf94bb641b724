"""The losses of UN-EPT, and the logits one pixel further along the predicted direction (unept/PAPER 4).

total = 0.8 CE(S) + 5 L_boundary + 0.6 L_direction + CE(R), where R are the logits S one pixel further along the
predicted direction, at predicted boundary pixels. The softmax is taken once: R's probabilities are gathered ones.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segcore.data.labels import IGNORE
from segcore.errors import check
from segcore.losses import SegmentationLoss, at_least_float32, cross_entropy
from segcore.recipe import Loss
from segcore.segmentor import Target

DIRECTIONS = ((0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1))
"""(dy, dx) of the eight direction bins, pixels: bin 0 points west, 2 north (up), 4 east, 6 south (unept/PAPER 4)."""
NUM_DIRECTIONS = len(DIRECTIONS)
BOUNDARY_DISTANCE = 5
"""Pixels of the original image: up to here from another label a pixel counts as boundary."""
SHIFT_LOGIT = 0.5
"""A pixel is shifted where its raw boundary logit exceeds this; the direction loss asks the softmax, as published."""
WEIGHTS = {"ce": 0.8, "boundary": 5.0, "direction": 0.6, "refined": 1.0}


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
