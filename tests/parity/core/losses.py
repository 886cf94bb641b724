"""Cross entropy, hard pixels and dice, and the auxiliary heads (docs/protocol 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segcore.layers.fcn_head import FCNHead
from segcore.losses import cross_entropy, dice_loss, hard_pixels, hardest_pixels, pixel_accuracy
from segcore.segmentor import resize
from tests.parity.building import IGNORE, array, count, ignored_as_255, settled
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.core.limits import EXACT, families, limits


def compare(case: ParityCase) -> Iterator[Comparison]:
    """Yield the losses of given logits and their gradients, told apart by what the case expects."""
    families(case.data, "M", "S")
    if "settings" in case.data["expected"]:
        yield from _hard_pixels(case.data)
    elif "value" in case.data["expected"]:
        yield from _dice(case.data)
    else:
        yield from _cross_entropy(case.data)


def _logits(inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    logits = torch.from_numpy(array(inputs["logits"]))
    label = ignored_as_255(array(inputs["labels"]), inputs["ignore"])
    settled(inputs, num_classes=logits.shape[1])
    if "add_to_true_class" in inputs:
        true_class = label.masked_fill(label == IGNORE, 0).unsqueeze(1)
        logits.scatter_add_(1, true_class, torch.full(true_class.shape, float(inputs["add_to_true_class"])))
    return logits.requires_grad_(), label


def _class_weight(inputs: Mapping[str, Any]) -> Tensor | None:
    return None if inputs["class_weight"] is None else torch.tensor(inputs["class_weight"])


def _value_and_gradient(
    name: str, loss: Tensor, logits: Tensor, published: Mapping[str, Any], allowed: Mapping[str, float]
) -> Iterator[Comparison]:
    yield Comparison(name, loss, published["value" if "value" in published else "loss"], **allowed)
    (gradient,) = torch.autograd.grad(loss, logits)
    num_pixels = logits.numel() // logits.shape[1]
    name = f"{name}: gradient_times_pixels"
    yield Comparison(name, gradient * num_pixels, published["gradient_times_pixels"], **allowed)


def _dice(data: Mapping[str, Any]) -> Iterator[Comparison]:
    inputs = data["inputs"]
    logits, label = _logits(inputs)
    settled(inputs, exponent=2)
    loss = dice_loss(logits, label, class_weight=_class_weight(inputs), smooth=inputs["smooth"])
    yield from _value_and_gradient("dice", inputs["loss_weight"] * loss, logits, data["expected"], limits(data))


def _cross_entropy(data: Mapping[str, Any]) -> Iterator[Comparison]:
    inputs, expected, allowed = data["inputs"], data["expected"], limits(data)
    logits, label = _logits(inputs)
    by_class = {"class_weight": _class_weight(inputs)}
    by_pixel = {"pixel_weight": torch.from_numpy(array(inputs["pixel_weight_abs_of"])).abs()}
    settings: dict[str, dict[str, Any]] = {
        "mean_over_all_pixels": {"average": "all"},
        "mean_over_valid_pixels": {"average": "valid"},
        "class_weight_all": {"average": "all", **by_class},
        "class_weight_valid": {"average": "valid", **by_class},
        "pixel_weight_all": {"average": "all", **by_pixel},
        "pixel_and_class_weight_all": {"average": "all", **by_class, **by_pixel},
        "sum": {"average": "sum"},
        "s_mean": {"average": "weight"},
        "s_class_weight": {"average": "weight", **by_class},
    }
    for name in expected:
        if name == "all_ignored":
            published = expected[name]
            for key in published:
                loss = cross_entropy(logits, torch.full_like(label, IGNORE), **settings[key])
                # published family S gives NaN here; ours is 0 by choice (docs/protocol 5.2)
                yield Comparison(f"all ignored: {key}", loss, published[key] or 0.0, **allowed)
        elif name == "accuracy_percent_valid":
            yield Comparison(name, pixel_accuracy(logits, label), expected[name], **allowed)
        else:
            loss = inputs["loss_weight"] * cross_entropy(logits, label, **settings[name])
            yield from _value_and_gradient(name, loss, logits, expected[name], allowed)


def _hard_pixels(data: Mapping[str, Any]) -> Iterator[Comparison]:
    logits, label = _logits(data["inputs"])
    by_class, allowed = {"class_weight": _class_weight(data["inputs"])}, limits(data)
    for setting in data["expected"]["settings"]:
        threshold, kept = setting["thresh"], setting["min_kept"]
        name = f"thresh {threshold}, min_kept {kept}"
        if threshold is None:
            weights = by_class["class_weight"]
            unreduced = nn.functional.cross_entropy(logits, label, weights, ignore_index=IGNORE, reduction="none")
            weight = hardest_pixels(unreduced, label, min_kept=kept)
        else:
            weight = hard_pixels(logits.detach(), label, threshold=threshold, min_kept=kept)
        places = [image.flatten().nonzero().flatten() for image in weight]
        counts = [len(place) for place in places]
        first = np.asarray([int(place[0]) if len(place) else None for place in places], np.float64)
        checksums = [int((7919 * place % 1000003).sum()) for place in places]
        yield Comparison(f"{name}: kept", int(weight.sum()), setting["kept"], **EXACT)
        yield Comparison(f"{name}: kept_per_image", counts, setting["kept_per_image"], **EXACT)
        yield Comparison(f"{name}: first_kept", first, setting["first_kept"], **EXACT)
        yield Comparison(f"{name}: index_checksum", checksums, setting["index_checksum"], **EXACT)
        loss = cross_entropy(logits, label, average="all", pixel_weight=weight, **by_class)
        yield from _value_and_gradient(name, loss, logits, setting, allowed)
        if "s_loss_over_kept" in setting:
            loss = cross_entropy(logits, label, average="weight", pixel_weight=weight, **by_class)
            yield Comparison(f"{name}: s_loss_over_kept", loss, setting["s_loss_over_kept"], **allowed)


@torch.no_grad()
def heads(case: ParityCase) -> Iterator[Comparison]:
    """Yield the logits of an auxiliary head; of family M also its losses."""
    (family,) = families(case.data, "M", "S")
    inputs, expected, allowed = case.data["inputs"], case.data["expected"], limits(case.data)
    head = (_head_s if family == "S" else _head_m)(case)
    features = [torch.from_numpy(array(inputs["input"]))]
    logits = head.eval()(features)
    if family == "S":
        yield Comparison("logits", logits, expected["logits"], **allowed)
        return
    label = torch.from_numpy(array(inputs["labels"]))
    size = (label.shape[-2], label.shape[-1])
    yield Comparison("params", count(head), expected["params"], **EXACT)
    yield Comparison("logits_eval", logits, expected["logits_eval"], **allowed)
    large = resize(logits, size)
    loss = inputs["loss_weight"] * cross_entropy(large, label)
    yield Comparison("loss_eval", loss, expected["loss_eval"], **allowed)
    yield Comparison("acc_eval", pixel_accuracy(large, label), expected["acc_eval"], **allowed)
    logits = head.train()(features)
    yield Comparison("logits_train", logits, expected["logits_train"], **allowed)
    loss = inputs["loss_weight"] * cross_entropy(resize(logits, size), label)
    yield Comparison("loss_train", loss, expected["loss_train"], **allowed)


def _head_m(case: ParityCase) -> FCNHead:
    inputs = case.data["inputs"]
    options = {"num_convs": inputs["num_convs"], "dropout": inputs["dropout"]}
    head = FCNHead(inputs["in_channels"], inputs["channels"], inputs["num_classes"], index=0, **options)
    return _load(head, case, {"conv_seg.": "classifier.", "convs.": "convs."})


def _head_s(case: ParityCase) -> FCNHead:
    """Family S numbers convolution, norm, activation and, if any, upsampling; before the classifier is a dropout."""
    inputs = case.data["inputs"]
    config = inputs["config"]
    upsample = config.get("upsample") or 1
    if isinstance(upsample, Mapping):
        settled(upsample, mode="nearest")
        upsample = int(upsample["scale_factor"])
    num_convs = config.get("num_convs", 1)
    options = {"num_convs": num_convs, "dropout": config["dropout"], "upsample": upsample}
    head = FCNHead(config["in_channels"], config["out_channels"], inputs["num_classes"], index=0, **options)
    step = 3 if upsample == 1 else 4
    names = {f"{step * i}.": f"convs.{i}.conv." for i in range(num_convs)}
    names |= {f"{step * i + 1}.": f"convs.{i}.bn." for i in range(num_convs)}
    return _load(head, case, {**names, f"{step * num_convs + 1}.": "classifier."})


def _load(head: FCNHead, case: ParityCase, names: Mapping[str, str]) -> FCNHead:
    """Load the filled tensors, strictly; `names` are how published names go on behind the head's, and ours."""
    shapes = case.data["inputs"]["state_dict"]
    tensors = case.fill({name: tuple(shapes[name]) for name in shapes})
    state: dict[str, Tensor] = {}
    for published, values in tensors.items():
        inner = published.split(".", 1)[1]
        prefix = next(prefix for prefix in names if inner.startswith(prefix))
        state[names[prefix] + inner.removeprefix(prefix)] = values
    head.load_state_dict(state)
    return head
