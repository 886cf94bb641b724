"""The network interface: what every paper's model is to training, inference and export."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcore.losses import at_least_float32, pixel_accuracy


class Target(NamedTuple):
    """What a training image is compared with.

    Shapes:
        label (B, H, W) int64, 255 = ignore
        boundary_distance (B, H, W) float32 pixels, boundary_angle (B, H, W) float32 degrees, 255 in the padding of
        both; None for papers whose `Paper.target_maps` does not give them
    """

    label: Tensor
    boundary_distance: Tensor | None = None
    boundary_angle: Tensor | None = None

    def to(self, device: torch.device) -> Target:
        """Return the target on a device; copies from pinned memory do not wait."""
        distance, angle = (
            None if part is None else part.to(device, non_blocking=True)
            for part in (self.boundary_distance, self.boundary_angle)
        )
        return Target(self.label.to(device, non_blocking=True), distance, angle)


class StepInfo(NamedTuple):
    """Where training stands.

    iteration counts optimizer steps from 0 to total - 1; lr is the schedule's value before any group's factor; epoch
    counts passes over the training images from 1.
    """

    iteration: int
    total: int
    lr: float
    epoch: int = 1


class Prediction(NamedTuple):
    """What a training step supervises: logits (B, K, h, w), their name in the log and the weight of their loss."""

    name: str
    logits: Tensor
    weight: float = 1.0


class Segmentor(nn.Module, ABC):
    """A segmentation network.

    Attributes:
        num_classes: K.
        classifiers: prefixes of the tensors that depend on K (re-initialized when fine-tuning to other classes).
    """

    num_classes: int
    classifiers: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Return the class logits of normalized RGB images.

        Shapes:
            image (B, 3, H, W) of any size -> (B, K, h, w) at the head's stride; where the input had to be padded for
            the backbone, (B, K, H, W)
        """

    def legal_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size (height, width) to which an input is padded for the network, the same where it is legal."""
        return height, width

    @abstractmethod
    def losses(self, image: Tensor, target: Target, step: StepInfo) -> dict[str, Tensor]:
        """Return the scalars of a training step: names containing "loss" are summed, the others only logged."""


Size = tuple[int, int]
"""Height and width, pixels of the image or map."""


def size_of(x: Tensor) -> Size:
    """Return the height and width of images or maps (..., h, w)."""
    return x.shape[-2], x.shape[-1]


def resize(x: Tensor, size: Size, *, align_corners: bool = False) -> Tensor:
    """Resize (B, C, h, w) bilinearly (docs/protocol 3.5); returns the input where the size is the same."""
    if size_of(x) == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


class EncoderDecoder(Segmentor):
    """Backbone, head and optional auxiliary heads.

    Inputs of a size that the backbone cannot take are zero-padded (= mean color) at right and bottom; the logits are
    then resized to the padded size and cut, so that the geometry stays exact.

    Args:
        backbone: gives a list of feature maps; may have `legal_size(height, width)`.
        head: list of feature maps -> logits (B, K, h, w).
        loss: (logits, label) -> dict of scalars, see `SegmentationLoss`.
        auxiliary: further heads, supervised with `auxiliary_weight`, used in training only.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        num_classes: int,
        loss: nn.Module,
        auxiliary: nn.ModuleList | None = None,
        auxiliary_weight: float = 0.4,
        classifiers: tuple[str, ...] = ("head.classifier.",),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.auxiliary = auxiliary
        self.num_classes = num_classes
        self.loss = loss
        self.auxiliary_weight = auxiliary_weight
        self.classifiers = classifiers

    def legal_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the backbone's legal size for an input, see `Segmentor.legal_size`."""
        ask = getattr(self.backbone, "legal_size", None)
        return ask(height, width) if ask else (height, width)

    def _pad(self, image: Tensor) -> Tensor:
        """Return the image zero-padded at right and bottom to a legal size."""
        height, width = image.shape[-2:]
        legal = self.legal_size(height, width)
        if legal == (height, width):
            return image
        return F.pad(image, (0, legal[1] - width, 0, legal[0] - height))

    def _encode(self, image: Tensor) -> tuple[list[Tensor], tuple[int, int]]:
        """Return the features that the head takes of the (padded) image, and its padded size."""
        image = self._pad(image)
        return self.backbone(image), size_of(image)

    @staticmethod
    def _cut(logits: Tensor, legal: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Undo the padding: resize to the padded size, then keep the image (nothing to do where none was added)."""
        if legal == size:
            return logits
        return resize(logits, legal)[..., : size[0], : size[1]]

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) -> logits (B, K, h, w), see `Segmentor.forward`."""
        size = size_of(image)
        features, legal = self._encode(image)
        return self._cut(self.head(features), legal, size)

    def losses(self, image: Tensor, target: Target, step: StepInfo) -> dict[str, Tensor]:
        """Return decode.loss_*, aux_<i>.loss_* and decode.acc_seg (percent of labeled pixels)."""
        features, legal = self._encode(image)
        return self._terms(self._predictions(features), legal, target.label)

    def _predictions(self, features: list[Tensor]) -> list[Prediction]:
        """Return what training compares with the label; the main logits are called decode."""
        return [Prediction("decode", self.head(features)), *self._auxiliary_predictions(features)]

    def _auxiliary_predictions(self, features: list[Tensor]) -> list[Prediction]:
        heads = enumerate(self.auxiliary or ())
        return [Prediction(f"aux_{i}", head(features), self.auxiliary_weight) for i, head in heads]

    def _terms(self, predictions: Sequence[Prediction], legal: tuple[int, int], label: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms of every prediction at the label's size, and decode.acc_seg.

        Args:
            legal: size of the padded image.
        """
        size = (label.shape[-2], label.shape[-1])
        result: dict[str, Tensor] = {}
        for name, logits, weight in predictions:
            logits = resize(self._cut(at_least_float32(logits), legal, size), size)  # (B, K, H, W)
            for term, value in self.loss(logits, label).items():
                result[f"{name}.{term}"] = weight * value
            if name == "decode":
                result["decode.acc_seg"] = pixel_accuracy(logits.detach(), label)
        return result
