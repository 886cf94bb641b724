"""A paper of one convolution and one classifier, to test what core does with any paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcore.errors import InputError
from segcore.paper import Paper
from segcore.recipe import Augment, Data, Evaluate, Model, Optim, Recipe, Schedule
from segcore.segmentor import Losses, Segmentor, StepInfo, Target
from segcore.weights.names import NameMap, Transform


@dataclass(frozen=True, kw_only=True)
class TinyModel(Model):
    """Options of the tiny network."""

    width: int = 4
    """Channels."""


class TinySegmentor(Segmentor):
    """Stem of stride 2 with a batch norm, and a 1x1 classifier."""

    classifiers = ("classifier.",)

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.scale = nn.Parameter(torch.ones(width))  # published as (C, 1, 1)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.num_classes = num_classes

    def forward(self, image: Tensor) -> Tensor:
        features = F.relu(self.norm(self.stem(image)))
        return self.classifier(features * self.scale[:, None, None])

    def losses(self, image: Tensor, target: Target, step: StepInfo) -> Losses:
        logits = F.interpolate(self(image), size=target.label.shape[-2:], mode="bilinear")
        return Losses({"loss_ce": F.cross_entropy(logits, target.label, ignore_index=255)}, {})


NAMES = NameMap(
    renames=(
        (r"^(stem|norm|scale)", r"backbone.\1"),
        (r"^classifier\.", "decode_head.conv_seg."),
    ),
    dropped=(r"auxiliary_head\..*",),
    transforms=(Transform(r"backbone\.scale", torch.flatten, lambda scale: scale[:, None, None]),),
)


def _infer_model(options: Model, shapes: Mapping[str, tuple[int, ...]]) -> Model:
    if "backbone.stem.weight" not in shapes:
        raise InputError("the checkpoint has no stem")
    return replace(options, width=shapes["backbone.stem.weight"][0])


_RECIPE = Recipe(
    model=TinyModel(backbone="stem"),
    data=Data(dataset="toy", image_size=(32, 48), num_images=(4, 2), batch=2, workers=0),
    augment=Augment(scale=(48, 32), crop=(32, 32)),
    optim=Optim(lr=0.01),
    schedule=Schedule(iterations=2),
    evaluate=Evaluate(scale=(48, 32)),
)

PAPER = Paper(
    name="tiny",
    title="A network of two convolutions",
    model_class=TinyModel,
    recipes={"toy": _RECIPE, "camvid": replace(_RECIPE, data=replace(_RECIPE.data, dataset="camvid"))},
    build=lambda recipe, num_classes: TinySegmentor(recipe.model.width, num_classes),  # pyright: ignore
    name_map=lambda _: NAMES,
    infer_model=_infer_model,
)


def published_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the network's tensors as its authors would have stored them."""
    tensors = {name: tensor.clone() for name, tensor in NAMES.export(model).items()}
    tensors["auxiliary_head.conv_seg.bias"] = torch.zeros(3)
    return tensors
