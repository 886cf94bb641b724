"""The network interface: what every paper's model is to training, inference and export."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcore.errors import InputError
from segcore.hub.origin import About, Origin
from segcore.hub.repository import upload, write_repository
from segcore.layers.replay import Replays
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


class StepInfo(NamedTuple):
    """Where training stands.

    iteration counts optimizer steps from 0 to total - 1; lr is the schedule's value before any group's factor; epoch
    counts passes over the training images from 1.
    """

    iteration: int
    total: int
    lr: float
    epoch: int = 1


class Losses(NamedTuple):
    """What a training step gives: scalars by their names in the log.

    `terms` are summed, each with its weight already; `logged` are only written to the log.
    """

    terms: dict[str, Tensor]
    logged: dict[str, Tensor]

    def total(self) -> Tensor:
        """Return the loss of the step."""
        return torch.stack([*self.terms.values()]).sum()


class Prediction(NamedTuple):
    """What a training step supervises: logits (B, K, h, w), their name in the log and the weight of their loss."""

    name: str
    logits: Tensor
    weight: float = 1.0


class Segmentor(nn.Module, ABC):
    """A segmentation network.

    Attributes:
        backbone: image (B, 3, H, W) of a legal size -> list of feature maps, fine to coarse.
        head: feature maps -> logits.
        num_classes: K.
        classifiers: prefixes of the tensors that depend on K (re-initialized when fine-tuning to other classes).
        loss_only: prefixes of the tensors that only `losses` uses: auxiliary heads.
        origin: paper, recipe and classes; None for a network that was put together by hand.
        replays: how its forward passes run in tests, where that is not the plain call.
    """

    backbone: nn.Module
    head: nn.Module
    num_classes: int
    classifiers: tuple[str, ...] = ()
    loss_only: tuple[str, ...] = ()
    origin: Origin | None = None
    replays: Replays | None = None

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Return the class logits of normalized RGB images.

        Shapes:
            image (B, 3, H, W) of any size -> (B, K, h, w) at the head's stride; where the input had to be padded for
            the backbone, (B, K, H, W)
        """

    def logits(self, image: Tensor) -> Tensor:
        """Return the class logits at the image's size, enlarged bilinearly (docs/protocol 3.5).

        Shapes:
            image (B, 3, H, W), normalized RGB of any size -> (B, K, H, W)
        """
        return resize(self(image), size_of(image))

    def legal_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size (height, width) to which an input is padded for the network, the same where it is legal."""
        return height, width

    @abstractmethod
    def losses(self, image: Tensor, target: Target, step: StepInfo) -> Losses:
        """Return the loss terms of a training step, and what is logged beside them."""

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """Name the parameters without a gradient in a loss of one's own on `model(image)`.

        `DistributedDataParallel(model)` reads this name and waits for no gradient of theirs. It looks at the module
        that it wraps only: our training wraps `TrainStep`, whose forward is `losses`, and there they do train.
        """
        return [name for name, _ in self.named_parameters() if name.startswith(self.loss_only)]

    def save_pretrained(self, folder: str | Path, **about: Unpack[About]) -> Path:
        """Write the folder that `Predictor.from_pretrained` reads: weights, recipe, model card.

        `model.safetensors` says all that is needed; `config.json` is the recipe for people and for `<paper>-train`;
        `README.md` is the model card. A README.md without the line that marks ours is left as it is. Folders of this
        machine are left out.

        Args:
            about: classes (names), license, scores: what the network does not know of itself, see `About`.

        Raises:
            InputError: if the folder cannot be written, something in `about` is impossible, or the network was put
                together by hand, so that its recipe is not known.
        """
        return write_repository(Path(folder), self, self.known_origin().described(about))

    def push_to_hub(self, repository: str, *, private: bool = False, **about: Unpack[About]) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face Hub, extra `segcore[hub]`; returns the address.

        Args:
            repository: user/name; made where it does not exist.
            private: make it private; says nothing about one that exists.
            about: see `save_pretrained`.

        Raises:
            InputError: as `save_pretrained`, and if the hub cannot be reached or refuses.
        """
        origin = self.known_origin().described(about)
        return upload(repository, lambda folder: write_repository(folder, self, origin, repository), private=private)

    def known_origin(self) -> Origin:
        """Return where the network comes from.

        Raises:
            InputError: if it was put together by hand.
        """
        if self.origin is None:
            raise InputError(
                "this network was put together by hand, so its recipe is not known; make it with segcore.create_model, "
                "or load it from a weights file"
            )
        return self.origin


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

    loss_only = ("auxiliary.",)

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
        return (height, width) if ask is None else ask(height, width)

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

    def losses(self, image: Tensor, target: Target, step: StepInfo) -> Losses:
        """Return the terms decode.loss_* and aux_<i>.loss_*; decode.acc_seg is logged (percent of labeled pixels)."""
        features, legal = self._encode(image)
        return self._losses(self._predictions(features), legal, target.label)

    def _predictions(self, features: list[Tensor]) -> list[Prediction]:
        """Return what training compares with the label; the main logits are called decode."""
        return [Prediction("decode", self.head(features)), *self._auxiliary_predictions(features)]

    def _auxiliary_predictions(self, features: list[Tensor]) -> list[Prediction]:
        heads = enumerate(self.auxiliary or ())
        return [Prediction(f"aux_{i}", head(features), self.auxiliary_weight) for i, head in heads]

    def _losses(self, predictions: Sequence[Prediction], legal: tuple[int, int], label: Tensor) -> Losses:
        """Return the weighted terms of every prediction at the label's size; decode.acc_seg is logged.

        Args:
            legal: size of the padded image.
        """
        size = (label.shape[-2], label.shape[-1])
        result = Losses({}, {})
        for name, logits, weight in predictions:
            logits = resize(self._cut(at_least_float32(logits), legal, size), size)  # (B, K, H, W)
            for term, value in self.loss(logits, label).items():
                result.terms[f"{name}.{term}"] = weight * value
            if name == "decode":
                result.logged["decode.acc_seg"] = pixel_accuracy(logits.detach(), label)
        return result
