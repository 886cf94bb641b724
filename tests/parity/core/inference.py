"""Inference on one input or a whole test pipeline, families M and S and UN-EPT (docs/protocol 3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segcore.evaluation.inference import logit_map, mean_over_views, network_input, predict_labels, views
from segcore.recipe import Evaluate
from tests.parity.building import TIED_SHARE, array, convolution, family_s, one_of, prediction_counts, scores, settled
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.core.limits import EXACT, families, limits


@torch.no_grad()
def compare(case: ParityCase) -> Iterator[Comparison]:
    """Yield our value beside the published one, in the order of computation."""
    (family,) = families(case.data, "M", "S", "UN-EPT")
    if "pixels" in case.data["inputs"]:
        yield from _pipeline(case.data)
    elif family == "S":
        yield from _tensor_s(case.data)
    else:
        yield from _tensor_m(case.data)


def _model(inputs: Mapping[str, Any]) -> nn.Conv2d:
    spec = inputs["model"]
    model = convolution(array(spec["weight"]), array(spec["bias"]), spec["stride"], spec["padding"])
    settled(inputs, num_classes=model.out_channels)
    return model


def _windows(mode: str, crop: list[int] | None, stride: list[int] | None, *, pad: bool = False) -> dict[str, Any]:
    if one_of(mode, "whole", "slide") == "whole":
        return {"mode": "whole"}
    assert crop is not None
    assert stride is not None
    return {"mode": "slide", "crop": tuple(crop), "stride": tuple(stride), "pad_window": pad}


def _windows_of(inputs: Mapping[str, Any]) -> dict[str, Any]:
    pad = inputs.get("pad_windows", False)
    return _windows(inputs["mode"], inputs.get("crop_size"), inputs.get("stride"), pad=pad)


def _counts(mean: Tensor, expected: Mapping[str, Any]) -> Comparison:
    counts = prediction_counts(mean)
    allowed = TIED_SHARE * float(counts.sum())
    return Comparison("prediction_counts", counts, expected["prediction_counts"], atol=allowed)


def _tensor_m(data: Mapping[str, Any]) -> Iterator[Comparison]:
    """Network inputs given as a tensor, mirrored already where the case says flip; images are independent."""
    inputs, expected, allowed = data["inputs"], data["expected"], limits(data)
    model, images = _model(inputs), torch.from_numpy(array(inputs["image"]))
    protocol = Evaluate(**_windows_of(inputs))
    full = torch.cat([logit_map(model, image[None], protocol).full() for image in images])
    yield Comparison("logits_before_rescale", full, expected["logits_before_rescale"], **allowed)
    mean = scores(model, images, protocol, tuple(inputs["original_shape"]), tuple(inputs["valid_shape"]))
    mean = mean.flip(-1) if inputs["flip"] else mean
    yield Comparison("probabilities", mean, expected["probabilities"], **allowed)
    yield _counts(mean, expected)


def _pipeline(data: Mapping[str, Any]) -> Iterator[Comparison]:
    """The whole test pipeline of family M from the decoded image on."""
    inputs, expected, allowed = data["inputs"], data["expected"], limits(data)
    model, pixels = _model(inputs), array(inputs["pixels"])
    options = {
        "scale": tuple(inputs["scale"]),
        "ratios": tuple(inputs["ratios"]),
        "resize_divisor": inputs["resize_to_multiple"] or 0,
        "pad_divisor": inputs["pad_divisor"] or 0,
        **_windows_of(inputs),
    }
    plain, protocol = Evaluate(**options), Evaluate(**options, flip=inputs["flip"])
    size, parts = pixels.shape[:2], views(pixels, protocol)
    published = iter(expected["augmentations"])
    for i, view in enumerate(parts):
        images, valid = network_input(view, protocol, torch.device("cpu"))
        for image, is_mirrored in zip(images.unsqueeze(1), (False, True), strict=False):
            want, name = next(published), f"augmentation {i}{' mirrored' if is_mirrored else ''}"
            yield Comparison(f"{name}: flip", is_mirrored, want["flip"], **EXACT)
            yield Comparison(f"{name}: input_shape", image.shape[-2:], want["input_shape"], **EXACT)
            yield Comparison(f"{name}: valid_shape", valid, want["valid_shape"], **EXACT)
            yield Comparison(f"{name}: input", image, want["input"], **allowed)
            mean = scores(model, image, plain, size, valid)
            mean = mean.flip(-1) if is_mirrored else mean
            yield Comparison(f"{name}: probabilities", mean, want["probabilities"], **allowed)
    assert next(published, None) is None
    yield Comparison("mean", mean_over_views(model, parts, protocol, size)[None], expected["mean"], **allowed)
    labels = predict_labels(model, parts, protocol, size).flatten().long()
    counts = torch.bincount(labels, minlength=inputs["num_classes"])
    tied = TIED_SHARE * labels.numel()
    yield Comparison("prediction_counts", counts, expected["prediction_counts"], atol=tied)


def _tensor_s(data: Mapping[str, Any]) -> Iterator[Comparison]:
    """Family S from normalized images at the test scale on; images are independent."""
    inputs, expected, allowed = data["inputs"], data["expected"], limits(data)
    model, images = _model(inputs), torch.from_numpy(array(inputs["image"]))
    forward, tta = inputs["forward"], inputs["tta"]
    protocol = Evaluate(
        family="S",
        probabilities=tta["use_probs_before_resize"],
        ratios=tuple(tta["multiscale"]),
        flip=tta["flip"],
        flip_pairs=tuple(tuple(pair) for pair in inputs["flip_pairs"] or ()),
        **_windows(forward["mode"], forward["cropsize"], forward["stride"]),
    )
    entries, mean = family_s(model, images, protocol, tuple(inputs["original_shape"]))
    for i, (entry, published) in enumerate(zip(entries, expected["entries"], strict=True)):
        yield Comparison(f"entry {i}", entry, published, **allowed)
    yield Comparison("mean", mean, expected["mean"], **allowed)
    yield _counts(mean, expected)
