"""Parity of IIWA's loss and of its parameter groups."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segcore.losses import SegmentationLoss, hard_pixels
from segcore.recipe import Loss, Optim
from segcore.segmentor import resize
from segcore.training.optim import build_optimizer
from segcore.weights.names import NameMap
from tests.parity.building import IGNORE, count, ignored_as_255, one_of, settled
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.fill import image, labels
from tests.parity.formulas import evaluate


def loss(case: ParityCase) -> Iterator[Comparison]:
    """Yield the pixels that are kept, the loss and the gradient of the logits."""
    config, inputs, num_classes = case.data["config"], case.data["inputs"], case.data["num_classes"]
    settled(config, align_corners=False)
    ignore, given = config["ignore_index"], inputs["labels"]
    label = ignored_as_255(labels(tuple(given["shape"]), num_classes, ignore, given["seed"]), ignore)
    yield Comparison("pixels", label.numel(), case.data["pixels"], atol=0)
    yield Comparison("valid_pixels", int((label != IGNORE).sum()), case.data["valid_pixels"], atol=0)
    logits = _logits(inputs["logits"], label, num_classes).requires_grad_()
    large = resize(logits, (label.shape[1], label.shape[2]))
    kept = hard_pixels(large.detach(), label, threshold=config["thresh"], min_kept=config["min_kept"])
    yield Comparison("kept pixels", int(kept.sum()), case.data["ohem_kept_pixels"], atol=0)
    yield Comparison("ohem_weight", kept, case.data["outputs"]["ohem_weight"], atol=0)
    module = SegmentationLoss(
        Loss(
            ohem=True,
            ohem_threshold=config["thresh"],
            ohem_min_kept=config["min_kept"],
            class_weight=tuple(config["class_weight"] or ()),
        )
    )
    yield Comparison("params", count(module), case.data["params"], atol=0)
    value = module(large, label)["loss_ce"]
    yield Comparison("loss", float(value.detach()), case.data["losses"]["loss"], rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(value, logits)
    scaled = gradient * logits.numel()
    yield Comparison("grad_logits_times_numel", scaled, case.data["outputs"]["grad_logits_times_numel"], atol=1e-3)


def _logits(given: Mapping[str, Any], label: Tensor, num_classes: int) -> Tensor:
    """Return logits (B, K, h, w) by their definition: noise, and something added for the class of a label pixel.

    "image(shape,0) + 6.0 * onehot(g), g = labels sampled at rows and columns 2::4; class of an ignored pixel (255) is
    18"
    """
    formula, words = re.split(r",?\s*(?:where\s+)?\bg\s*=", given["definition"], maxsplit=1)
    (places,) = re.findall(r"(\d*)::(\d+)", words)
    (ignored,) = re.findall(r"ignored pixel[^;]*? is ([^;,.]+)", words)
    start, step = int(places[0] or 0), int(places[1])
    true_class = label[:, start::step, start::step].numpy()
    true_class = np.where(true_class == IGNORE, evaluate(ignored, num_classes=num_classes), true_class)

    def noise(shape: list[int], seed: int) -> np.ndarray:
        assert seed == given["seed"], "the definition draws with another seed than the case names"
        return image(tuple(shape), seed)

    def onehot(classes: np.ndarray) -> np.ndarray:
        return np.eye(num_classes, dtype=np.float32)[classes].transpose(0, 3, 1, 2)

    names = {"image": noise, "onehot": onehot, "shape": given["shape"], "seed": given["seed"], "g": true_class}
    return torch.from_numpy(np.asarray(evaluate(formula, **names), np.float32))


def groups(case: ParityCase) -> Iterator[Comparison]:
    """Yield learning rate and weight decay of every name."""
    config = case.data["config"]
    keys = config["custom_keys"]
    optim = Optim(
        kind=one_of(config["optimizer"].lower(), "adamw", "sgd"),
        lr=config["lr"],
        weight_decay=config["weight_decay"],
        lr_mult={key: keys[key]["lr_mult"] for key in keys if "lr_mult" in keys[key]},
        decay_mult={key: keys[key]["decay_mult"] for key in keys if "decay_mult" in keys[key]},
    )
    published = case.data["outputs"]["lr_and_weight_decay"]
    model = nn.Module()
    own = {name: name.replace(".", "/") for name in published}  # a parameter's own name has no dot
    for name in own.values():
        model.register_parameter(name, nn.Parameter(torch.zeros(1)))
    optimizer = build_optimizer(model, NameMap(((r"/", "."),)), optim)
    ids = {id(p): name for name, p in model.named_parameters()}
    ours = {ids[id(p)]: [g["lr"], g["weight_decay"]] for g in optimizer.param_groups for p in g["params"]}
    for name in published:
        yield Comparison(name, ours[own[name]], published[name], rtol=1e-12, atol=0)
    held = sum(tensor.numel() for tensor in case.published_state().values())
    yield Comparison("params", held, case.data["params"], atol=0)
