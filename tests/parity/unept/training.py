"""Parity cases of UN-EPT's training: losses on given predictions, and whole networks with gradient norms."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from segcore.losses import pixel_accuracy
from segcore.recipe import Loss
from segcore.segmentor import Target, resize
from tests.parity.building import IGNORE, gradient_norms, tensor
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.fill import labels
from tests.parity.unept.networks import build, compare_params
from tests.unept.networks import STEP, gather_pixels
from unept.model import Predictions
from unept.names import name_map
from unept.refinement import WEIGHTS, RefinementLoss, at_label_size, rarity_weights

_PUBLISHED_NAMES = {"ce": "ce", "boundary": "mask", "direction": "direction", "refined": "ce_refined"}


def target_of(case: ParityCase, batch: int, height: int, width: int) -> Target:
    """Return the targets that the notes of a case describe.

    "distance = RandomState(5).randint(0,13,...) repeated 4x4 and cropped; angle = 2*RandomState(6).randint(0,181,...) -
    180 repeated likewise; then the last 8 columns of all three set to 255"
    """
    notes = case.data["notes"]
    draw = r"RandomState\((\d+)\)\.randint\((\d+),\s*(\d+)"
    (distance,) = re.findall(rf"distance = {draw}", notes)
    ((factor, *angle, offset),) = re.findall(rf"angle = (\d+)\*{draw}[^-]*- (\d+)", notes)
    (side,) = (int(number) for number in re.findall(r"repeated (\d+)x", notes))
    (padded,) = (int(number) for number in re.findall(r"the last (\d+) columns", notes))

    def blocks(seed: str, low: str, high: str) -> np.ndarray:
        shape = (batch, -(-height // side), -(-width // side))
        drawn = np.random.RandomState(int(seed)).randint(int(low), int(high), shape)
        return drawn.repeat(side, axis=1).repeat(side, axis=2)[:, :height, :width]

    label = labels((batch, height, width), case.data["num_classes"])
    parts = (label, blocks(*distance), int(factor) * blocks(*angle) - int(offset))
    maps = [torch.from_numpy(part.copy()) for part in parts]
    for part in maps:
        part[..., -padded:] = IGNORE
    return Target(maps[0], maps[1].float(), maps[2].float())


def _compare_losses(
    case: ParityCase, loss: RefinementLoss, logits: Tensor, said: Predictions, target: Target
) -> Iterator[Comparison]:
    """Compare what leads to the losses, then the losses; logits are at label size."""
    size = (logits.shape[-2], logits.shape[-1])
    boundary, direction = (at_label_size(part, size, size) for part in (said.boundary, said.direction))
    with torch.no_grad():
        targets, pixels = loss.boundary_targets(boundary, target), loss.shift(boundary, direction)
        outputs = case.data["outputs"]
        yield Comparison("refined_logits", gather_pixels(logits, pixels), outputs["refined_logits"])
        ignored = targets.direction.masked_fill(targets.direction == IGNORE, -1)
        yield Comparison("direction_target", ignored[:, None], outputs["direction_target"])
        stats, kept = case.data["stats"], targets.direction != IGNORE
        fraction = targets.is_boundary.float().mean()
        yield Comparison("boundary_target_fraction", fraction, stats["boundary_target_fraction"], rtol=1e-5, atol=0)
        weights = rarity_weights(targets.is_boundary, 2)
        yield Comparison("mask_weights", weights, stats["mask_weights"], rtol=1e-5, atol=0)
        yield Comparison("direction_pixels", kept.sum(), stats["direction_pixels"], atol=0)
        weights = rarity_weights(targets.direction, 8)
        yield Comparison("direction_weights", weights, stats["direction_weights"], rtol=1e-5, atol=0)
        yield Comparison("shifted_pixels", (boundary[:, 1] > 0.5).sum(), stats["shifted_pixels"], atol=0)
    terms = loss(logits, boundary, direction, target)
    losses = case.data["losses"]
    for name, published in _PUBLISHED_NAMES.items():
        yield Comparison(f"loss {name}", terms[name].detach(), losses[published], rtol=1e-5, atol=0)
    # the published accuracy has ignored pixels in its denominator
    is_labeled = target.label != IGNORE
    accuracy = pixel_accuracy(logits.detach(), target.label) * is_labeled.float().mean()
    yield Comparison("acc_seg", accuracy, losses["acc_seg"], rtol=1e-5, atol=0)


def losses(case: ParityCase) -> Iterator[Comparison]:
    """The losses of given predictions, and their gradients."""
    given = case.data["input"]
    logits, boundary, direction = (tensor(given[name]).requires_grad_() for name in ("logits", "mask", "direction"))
    batch, _, *size = logits.shape
    target, loss = target_of(case, batch, *size), RefinementLoss(Loss())
    yield from _compare_losses(case, loss, logits, Predictions(logits, boundary, direction), target)
    enlarged = (at_label_size(part, (size[0], size[1]), (size[0], size[1])) for part in (boundary, direction))
    terms = loss(logits, *enlarged, target)
    total = torch.stack([WEIGHTS[name] * value for name, value in terms.items()]).sum()
    yield Comparison("total", total.detach(), case.data["losses"]["total"], rtol=1e-5, atol=0)
    gradients = torch.autograd.grad(total, (logits, boundary, direction))
    scaled = (gradients[0] * 1e4, *gradients[1:])
    for name, gradient in zip(("grad_logits", "grad_mask", "grad_direction"), scaled, strict=True):
        yield Comparison(name, gradient, case.data["outputs"][name])


def network(case: ParityCase) -> Iterator[Comparison]:
    """A training step: predictions, losses, the norm of every parameter's gradient."""
    model = build(case)
    yield from compare_params(case, model)
    has_norms = any(isinstance(module, _BatchNorm) for module in model.backbone.modules())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    image = tensor(case.data["input"])
    size = (image.shape[-2], image.shape[-1])
    target = target_of(case, len(image), *size)
    said = model.train().head.predictions([image, *model.backbone(image)])
    outputs = case.data["outputs"]
    logits = resize(said.logits, size)
    for name, value in (("logits", logits), ("mask", said.boundary), ("direction", said.direction)):
        yield Comparison(name, value, outputs[name])
    assert isinstance(model.loss, RefinementLoss)
    yield from _compare_losses(case, model.loss, logits, said, target)
    model.load_state_dict(state)
    total = model.losses(image, target, STEP).total()
    yield Comparison("total", total.detach(), case.data["losses"]["total"], rtol=1e-5, atol=0)
    total.backward()
    norms, published = gradient_norms(model, name_map(model).to_published), case.data["grad_norms"]
    for name in case.data["no_grad"]:
        yield Comparison(f"gradient norm of {name}", norms.pop(name, 0.0), 0.0, atol=0)
    assert norms.keys() == published.keys()
    for name in published:
        # batch norm on two small images amplifies rounding in the ResNet
        rtol = 1e-2 if has_norms and name.startswith("backbone.") else 1e-3
        yield Comparison(f"gradient norm of {name}", norms[name], published[name], rtol=rtol, atol=2e-6)
