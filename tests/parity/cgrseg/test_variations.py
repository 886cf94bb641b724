"""CGRSeg's adapter on cases with other values than the public ones; expected values by hand, by cgrseg/PAPER."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgrseg.model import CGRSeg
from cgrseg.names import name_map
from tests.parity.case_files import DEFAULT_DIRECTORY, ParityCase
from tests.parity.cgrseg import adapter
from tests.parity.fill import image, sample
from tests.parity.varied import Array, problem, public, resize, softmax


def _logits(content: dict[str, Any], images: Array) -> Array:
    """Return the network's own logits at stride 8, which the public cases prove, one image at a time."""
    case = ParityCase.create(DEFAULT_DIRECTORY, content)
    model = CGRSeg(adapter.options_of(case), content["num_classes"]).eval()
    model.load_state_dict(name_map(model).convert(model, case.published_state()))
    with torch.no_grad():
        return torch.cat([model(torch.from_numpy(single[None])) for single in images]).double().numpy()


def test_inference_pads_cuts_mirrors_and_averages_a_batch() -> None:
    case = public("cgrseg", "inference_t_90x120")
    size, views = (31, 47), [(3, [2, 3, 40, 66], (64, 96), False), (4, [2, 3, 33, 50], (64, 64), True)]
    case |= {"original_size": list(size), "inputs": []}
    means: list[Array] = []
    for seed, shape, padded, is_mirrored in views:
        given = {"seed": seed, "image_shape": shape, "padded_to": list(padded), "flip": is_mirrored}
        case["inputs"].append(given)
        height, width = shape[2:]
        edges = ((0, 0), (0, 0), (0, padded[0] - height), (0, padded[1] - width))
        logits = _logits(case, np.pad(image(tuple(shape), seed), edges))
        mean = softmax(resize(resize(logits, padded)[..., :height, :width], size), axis=1)
        means.append(mean[..., ::-1] if is_mirrored else mean)
    mean = np.mean(means, axis=0)
    case["outputs"] = {"probabilities": sample(mean)}
    case["prediction_histogram"] = np.bincount(mean.argmax(axis=1).ravel(), minlength=150).tolist()
    assert problem(case) is None
    case["inputs"][1]["flip"] = False
    assert "probabilities" in (problem(case) or "")


def test_the_optimizer_is_that_of_the_case_and_of_its_variant() -> None:
    case, large = public("cgrseg", "optimizer_t"), public("cgrseg", "l_96x128")
    base = {"type": "AdamW", "lr": 3e-4, "betas": [0.8, 0.99], "eps": 1e-7, "weight_decay": 0.05}
    buffers = ("running_mean", "running_var", "num_batches_tracked", "attention_biases")  # the last is never used
    names = [name for name in large["state_dict"] if name not in large["kept"] and name.split(".")[-1] not in buffers]
    groups: dict[str, list[float]] = {}
    for name in names:  # the longest key in a name decides alone, `head` before `norm`
        is_head, is_norm = "head" in name, "norm" in name
        groups[name] = [10.0 if is_head else 1.0, 0.05 if is_head or not is_norm else 0.0]
    case |= {"variant": large["variant"], "base": base, "groups": groups}
    assert problem(case) is None
    groups[names[0]] = [10.0, 0.05]
    assert names[0] in (problem(case) or "")


@pytest.mark.parametrize(
    ("variant", "name", "repeat"),
    [
        ("CGRSeg-L (EfficientFormerV2-L) {'next_repeat': 2}", "efficientformerv2_l", 2),
        ("efficientformerv2_s2_feat", "efficientformerv2_s2", 6),
    ],
)
def test_a_variant_is_read_from_its_name(variant: str, name: str, repeat: int) -> None:
    case = {"case": "x", "paper": "cgrseg", "variant": variant, "num_classes": 0, "mode": "eval"}
    options = adapter.options_of(ParityCase.create(Path("x"), case))
    assert (options.backbone, options.pyramid_modules) == (name, repeat)


def test_a_variant_that_is_not_that_of_the_tensors_is_refused() -> None:
    case = public("cgrseg", "b_paper_repeat5_96x96") | {"variant": "CGRSeg-B (EfficientFormerV2-S2) {'next_repeat': 4}"}
    with pytest.raises(ValueError, match="pyramid_modules"):
        problem(case)
