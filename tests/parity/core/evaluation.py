"""Comparisons of inference, metrics, losses, auxiliary heads and overlays with the published implementations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segcore.data.labels import reduce_zero_label
from segcore.evaluation.inference import bands, network_input, predict, predict_labels, scaled, score_map, views
from segcore.evaluation.logit_map import ScoreMap
from segcore.evaluation.metrics import ConfusionMatrix, Scores
from segcore.images.visualize import overlay
from segcore.layers.fcn_head import FCNHead
from segcore.losses import cross_entropy, dice_loss, hard_pixels, hardest_pixels, pixel_accuracy
from segcore.recipe import Evaluate
from segcore.segmentor import resize
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.fill import fill
from tests.parity.inputs import make

# prediction_counts are compared up to this share of the pixels: two classes of equal score are decided by rounding.
_TIED_SHARE = 1e-3


def compare(case: ParityCase) -> Iterator[Comparison]:
    """Yield our value beside the published one, in the order of computation."""
    kinds = {
        "inference": _inference,
        "metrics": _metrics,
        "loss": _loss,
        "module": _module,
        "visual": _overlay,
    }
    tolerance = case.data["tolerance"]
    rtol, atol = tolerance.get("rtol", 0.0), tolerance.get("atol", 0.0)
    for name, ours, published, *own in kinds[case.data["kind"]](case.data):
        yield Comparison(name, ours, published, *(own or (rtol, atol)))


Row = tuple[Any, ...]
"""(name, ours, published) and, where they are not the case's, rtol and atol."""


def _toy_model(spec: Mapping[str, Any]) -> nn.Conv2d:
    weight, bias = torch.from_numpy(make(spec["weight"])), torch.from_numpy(make(spec["bias"]))
    model = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[-1], spec["stride"], spec["padding"])
    model.load_state_dict({"weight": weight, "bias": bias})
    return model.eval()


def _counts(label: Tensor, num_classes: int) -> list[int]:
    return torch.bincount(label.flatten().long(), minlength=num_classes).tolist()


def _resized(part: ScoreMap, size: tuple[int, int], protocol: Evaluate) -> Tensor:
    """Return one map at the original size, (1, K, H, W)."""
    return torch.cat([band for _, band in bands([part], size, protocol)], dim=1).unsqueeze(0)


def _inference(data: Mapping[str, Any]) -> Iterator[Row]:
    with torch.no_grad():
        if "pixels" in data["inputs"]:
            yield from _pipeline_m(data)
        elif data["flavour"] == "S":
            yield from _tensor_s(data)
        else:
            yield from _tensor_m(data)


def _window_options(inputs: Mapping[str, Any]) -> dict[str, Any]:
    if inputs["mode"] == "whole":
        return {"mode": "whole"}
    crop, stride = tuple(inputs["crop_size"]), tuple(inputs["stride"])
    return {"mode": "slide", "crop": crop, "stride": stride, "pad_window": inputs.get("pad_windows", False)}


def _tensor_m(data: Mapping[str, Any]) -> Iterator[Row]:
    """One network input given as a tensor, mirrored already where the case says flip."""
    inputs, expected = data["inputs"], data["expected"]
    model, image = _toy_model(inputs["model"]), torch.from_numpy(make(inputs["image"]))
    protocol = Evaluate(**_window_options(inputs))
    yield "logits_before_rescale", score_map(model, image, protocol).full(), expected["logits_before_rescale"]
    part = score_map(model, image, protocol, valid=tuple(inputs["valid_shape"]))
    scores = _resized(part, tuple(inputs["original_shape"]), protocol)
    scores = scores.flip(-1) if inputs["flip"] else scores
    yield "probabilities", scores, expected["probabilities"]
    counts = _counts(scores.argmax(dim=1), inputs["num_classes"])
    yield "prediction_counts", counts, expected["prediction_counts"], 0.0, _TIED_SHARE * sum(counts)


def _pipeline_m(data: Mapping[str, Any]) -> Iterator[Row]:
    """The whole test pipeline of family M from the decoded image on."""
    inputs, expected = data["inputs"], data["expected"]
    model, pixels = _toy_model(inputs["model"]), make(inputs["pixels"])
    options = {
        "scale": tuple(inputs["scale"]),
        "ratios": tuple(inputs["ratios"]),
        "resize_divisor": inputs["resize_to_multiple"] or 0,
        "pad_divisor": inputs["pad_divisor"] or 0,
        **_window_options(inputs),
    }
    plain, protocol = Evaluate(**options), Evaluate(**options, flip=inputs["flip"])
    size, parts = pixels.shape[:2], views(pixels, protocol)
    published = iter(expected["augmentations"])
    for i, view in enumerate(parts):
        images, valid = network_input(view, protocol, torch.device("cpu"))
        for image, is_mirrored in zip(images.unsqueeze(1), (False, True), strict=False):
            want, name = next(published), f"augmentation {i}{' mirrored' if is_mirrored else ''}"
            assert want["flip"] == is_mirrored
            yield f"{name}: valid_shape", valid, want["valid_shape"], 0.0, 0.0
            yield f"{name}: input", image, want["input"]
            scores = _resized(score_map(model, image, plain, valid), size, plain)
            yield f"{name}: probabilities", scores.flip(-1) if is_mirrored else scores, want["probabilities"]
    assert next(published, None) is None
    yield "mean", predict(model, parts, protocol, size).unsqueeze(0), expected["mean"]
    counts = _counts(predict_labels(model, parts, protocol, size), inputs["num_classes"])
    yield "prediction_counts", counts, expected["prediction_counts"], 0.0, _TIED_SHARE * sum(counts)


def _tensor_s(data: Mapping[str, Any]) -> Iterator[Row]:
    """Family S from the normalized image at the test scale on."""
    inputs, expected = data["inputs"], data["expected"]
    model, image = _toy_model(inputs["model"]), torch.from_numpy(make(inputs["image"]))
    forward, tta = inputs["forward"], inputs["tta"]
    pairs = tuple(tuple(pair) for pair in inputs["flip_pairs"] or ())
    options = {"mode": forward["mode"], "probabilities": tta["use_probs_before_resize"], "flip": tta["flip"]}
    if forward["mode"] == "slide":
        options |= {"crop": tuple(forward["cropsize"]), "stride": tuple(forward["stride"])}
    protocol = Evaluate(family="S", flip_pairs=pairs, **options)
    published, maps = iter(expected["entries"]), []
    order = list(range(inputs["num_classes"]))
    for one, other in pairs:
        order[one], order[other] = other, one
    for ratio in tta["multiscale"]:
        entry = scaled(image, ratio)
        maps.append(score_map(model, torch.cat([entry, entry.flip(-1)]) if tta["flip"] else entry, protocol))
        for scores, is_mirrored in zip(maps[-1].full().unsqueeze(1), (False, True), strict=False):
            name = f"entry at {ratio}{' mirrored' if is_mirrored else ''}"
            yield name, scores[:, order].flip(-1) if is_mirrored else scores, next(published)
    assert next(published, None) is None
    size = tuple(inputs["original_shape"])
    total = torch.cat([band for _, band in bands(maps, size, protocol)], dim=1)
    yield "mean", total.unsqueeze(0) / len(expected["entries"]), expected["mean"]
    counts = _counts(total.argmax(dim=0), inputs["num_classes"])
    yield "prediction_counts", counts, expected["prediction_counts"], 0.0, _TIED_SHARE * sum(counts)


def _scores(inputs: Mapping[str, Any], flavour: str) -> Scores:
    outside = "ignored" if flavour == "S" else "predicted"
    matrix = ConfusionMatrix(inputs["num_classes"], outside=outside)
    for prediction, label in inputs["pairs"]:
        values = make(label)
        if inputs["reduce_zero"]:
            values = reduce_zero_label(values.astype(np.uint8))
        matrix.update(torch.from_numpy(make(prediction)), torch.from_numpy(values))
    return matrix.scores()


def _metrics(data: Mapping[str, Any]) -> Iterator[Row]:
    scores, expected = _scores(data["inputs"], data["flavour"]), data["expected"]
    areas = {
        "intersect": scores.intersection,
        "union": scores.union,
        "pred": scores.predicted,
        "label": scores.labeled,
    }
    ratios = {
        "aacc": scores.aacc, "all_accuracy": scores.aacc, "iou": scores.iou, "acc": scores.accuracy,
        "accuracy": scores.accuracy, "dice": scores.dice, "fscore": scores.fscore, "precision": scores.precision,
        "recall": scores.recall, "miou": scores.miou, "macc": scores.macc, "mdice": scores.mdice,
        "mfscore": scores.mfscore, "mprecision": scores.mprecision, "mrecall": scores.mrecall,
    }  # fmt: skip
    summary = scores.summary(("mIoU", "mDice", "mFscore"))
    for name, published in expected.items():
        if name == "summary_percent":
            for key, value in published.items():
                yield f"summary {key}", summary[key], value / 100, 0.0, 1e-12
        elif name in areas:
            yield name, areas[name], published, 0.0, 0.0
        else:
            yield name, ratios[name.lower()], np.asarray(published, np.float64), 1e-9, 1e-9


def _logits(inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    logits, label = torch.from_numpy(make(inputs["logits"])), torch.from_numpy(make(inputs["labels"]))
    if "add_to_true_class" in inputs:
        true_class = torch.where(label == inputs["ignore"], 0, label).unsqueeze(1)
        logits.scatter_add_(1, true_class, torch.full(true_class.shape, float(inputs["add_to_true_class"])))
    return logits.requires_grad_(), label


def _value_and_gradient(name: str, loss: Tensor, logits: Tensor, published: Mapping[str, Any]) -> Iterator[Row]:
    yield name, loss, published.get("value", published.get("loss"))
    (gradient,) = torch.autograd.grad(loss, logits)
    num_pixels = logits.numel() // logits.shape[1]
    yield f"{name}: gradient_times_pixels", gradient * num_pixels, published["gradient_times_pixels"]


def _loss(data: Mapping[str, Any]) -> Iterator[Row]:
    if "settings" in data["expected"]:
        yield from _hard_pixel_loss(data)
    elif "value" in data["expected"]:
        logits, label = _logits(data["inputs"])
        loss = data["inputs"]["loss_weight"] * dice_loss(logits, label, class_weight=_class_weight(data["inputs"]))
        yield from _value_and_gradient("dice", loss, logits, data["expected"])
    else:
        yield from _cross_entropy(data)


def _class_weight(inputs: Mapping[str, Any]) -> Tensor | None:
    return None if inputs["class_weight"] is None else torch.tensor(inputs["class_weight"])


def _cross_entropy(data: Mapping[str, Any]) -> Iterator[Row]:
    inputs, expected = data["inputs"], data["expected"]
    logits, label = _logits(inputs)
    by_class = {"class_weight": _class_weight(inputs)}
    by_pixel = {"pixel_weight": torch.from_numpy(make(inputs["pixel_weight_abs_of"])).abs()}
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
    for name, published in expected.items():
        if name == "all_ignored":
            for key, value in published.items():
                loss = cross_entropy(logits, torch.full_like(label, inputs["ignore"]), **settings[key])
                # published family S gives NaN here; ours is 0 by choice (docs/protocol 5.2)
                yield f"all ignored: {key}", loss, 0.0 if value is None else value
        elif name == "accuracy_percent_valid":
            yield name, pixel_accuracy(logits, label), published
        else:
            loss = inputs["loss_weight"] * cross_entropy(logits, label, **settings[name])
            yield from _value_and_gradient(name, loss, logits, published)


def _hard_pixel_loss(data: Mapping[str, Any]) -> Iterator[Row]:
    logits, label = _logits(data["inputs"])
    for setting in data["expected"]["settings"]:
        name, kept = f"thresh {setting['thresh']}, min_kept {setting['min_kept']}", setting["min_kept"]
        if setting["thresh"] is None:
            unreduced = nn.functional.cross_entropy(logits, label, ignore_index=255, reduction="none").detach()
            weight = hardest_pixels(unreduced, label, min_kept=kept)
        else:
            weight = hard_pixels(logits.detach(), label, threshold=setting["thresh"], min_kept=kept)
        places = [image.flatten().nonzero().flatten() for image in weight]
        yield f"{name}: kept", int(weight.sum()), setting["kept"], 0.0, 0.0
        yield f"{name}: kept_per_image", [len(place) for place in places], setting["kept_per_image"], 0.0, 0.0
        yield f"{name}: first_kept", [int(place[0]) for place in places], setting["first_kept"], 0.0, 0.0
        checksums = [int((7919 * place % 1000003).sum()) for place in places]
        yield f"{name}: index_checksum", checksums, setting["index_checksum"], 0.0, 0.0
        loss = cross_entropy(logits, label, average="all", pixel_weight=weight)
        yield from _value_and_gradient(name, loss, logits, setting)
        if "s_loss_over_kept" in setting:
            loss = cross_entropy(logits, label, average="weight", pixel_weight=weight)
            yield f"{name}: s_loss_over_kept", loss, setting["s_loss_over_kept"]


def _module(data: Mapping[str, Any]) -> Iterator[Row]:
    inputs, expected = data["inputs"], data["expected"]
    head = _auxiliary_head(data)
    features = [torch.from_numpy(make(inputs["input"]))]
    with torch.no_grad():
        head.eval()
        logits = head(features)
        if data["flavour"] == "S":
            yield "logits", logits, expected["logits"]
            return
        label = torch.from_numpy(make(inputs["labels"]))
        size = (label.shape[-2], label.shape[-1])
        yield "params", sum(parameter.numel() for parameter in head.parameters()), expected["params"], 0.0, 0.0
        yield "logits_eval", logits, expected["logits_eval"]
        large = resize(logits, size)
        yield "loss_eval", inputs["loss_weight"] * cross_entropy(large, label), expected["loss_eval"]
        yield "acc_eval", pixel_accuracy(large, label), expected["acc_eval"]
        head.train()
        logits = head(features)
        yield "logits_train", logits, expected["logits_train"]
        loss = inputs["loss_weight"] * cross_entropy(resize(logits, size), label)
        yield "loss_train", loss, expected["loss_train"]


def _auxiliary_head(data: Mapping[str, Any]) -> FCNHead:
    """Build the head of a case and load its filled tensors, strictly."""
    inputs = data["inputs"]
    if data["flavour"] == "S":
        config = inputs["config"]
        upsample = config.get("upsample") or 1
        upsample = int(upsample["scale_factor"]) if isinstance(upsample, Mapping) else upsample
        num_convs = config.get("num_convs", 1)
        options = {"num_convs": num_convs, "dropout": config["dropout"], "upsample": upsample}
        head = FCNHead(config["in_channels"], config["out_channels"], inputs["num_classes"], index=0, **options)
        step = 3 if upsample == 1 else 4  # conv, norm, activation and, if any, upsampling
        names = {f"{step * i}.": f"convs.{i}.conv." for i in range(num_convs)}
        names |= {f"{step * i + 1}.": f"convs.{i}.bn." for i in range(num_convs)}
        names[f"{step * num_convs + 1}."] = "classifier."  # the dropout comes first
    else:
        options = {"num_convs": inputs["num_convs"], "dropout": inputs["dropout"]}
        head = FCNHead(inputs["in_channels"], inputs["channels"], inputs["num_classes"], index=0, **options)
        names = {"conv_seg.": "classifier.", "convs.": "convs."}
    state = {}
    for published, shape in inputs["state_dict"].items():
        inner = published.split(".", 1)[1]
        prefix = next(prefix for prefix in names if inner.startswith(prefix))
        state[names[prefix] + inner.removeprefix(prefix)] = torch.from_numpy(np.asarray(fill(published, tuple(shape))))
    head.load_state_dict(state)
    return head


def _overlay(data: Mapping[str, Any]) -> Iterator[Row]:
    inputs = data["inputs"]
    image, label = make(inputs["pixels"]), make(inputs["prediction"])
    palette = np.asarray(inputs["palette"], np.uint8)
    for result in data["expected"]["results"]:
        ours = overlay(image, label, palette, result["opacity"])
        yield f"opacity {result['opacity']}", ours, np.asarray(result["image"])
