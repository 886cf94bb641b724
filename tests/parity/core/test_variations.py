"""Core's adapter on cases with other values than the public ones; expected values in NumPy, by the definitions."""

from __future__ import annotations

import functools
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from segcore.weights.torch_files import read_published
from tests.parity import varied
from tests.parity.core import training
from tests.parity.fill import fill, sample
from tests.parity.inputs import make
from tests.parity.varied import Array, convolve, problem, public, resize, softmax

_WARMUPS = {
    "constant": lambda i, n, ratio: ratio,
    "linear": lambda i, n, ratio: 1 - (1 - i / n) * (1 - ratio),
    "exp": lambda i, n, ratio: ratio ** (1 - i / n),
}


@pytest.mark.parametrize("kind", _WARMUPS)
@pytest.mark.parametrize("family", ["M", "S"])
def test_a_nested_warmup_multiplies_the_decaying_rate(family: str, kind: str) -> None:
    total, length, ratio, base, factor, min_lr, power = 40, 8, 0.05, 0.02, 0.3, 1e-3, 0.7
    last = length if family == "S" else length - 1  # family S: active while i <= n
    rows: list[list[float]] = []
    for i in (0, 1, 5, 7, 8, 9, 39):
        warmup = _WARMUPS[kind](i, length, ratio) if i <= last else 1.0
        decay = (1 - i / total) ** power
        if family == "M":
            rows.append([i, *(((b - min_lr) * decay + min_lr) * warmup for b in (base, factor * base))])
        else:
            rate = ((base - min_lr) * decay + min_lr) * warmup
            rows.append([i, rate, rate, factor * rate])
    config: dict[str, Any] = {"policy": "poly", "power": power, "min_lr": min_lr}
    config["warmup"] = {"type": kind, "ratio": ratio, "iters": length}
    entry: dict[str, Any] = {"config": config, "iterations": total, "rows": rows}
    if family == "M":
        entry["group_base_lr"] = [base, factor * base]
    else:
        config |= {"lr": base, "epochs": 4, "iterations_per_epoch": 10, "lr_multiplier": factor}
    case = public("core", "lr_schedules") | {"flavour": family, "expected": {"nested": entry}}
    assert problem(case) is None
    config["warmup"]["type"] = "linear" if kind == "exp" else "exp"
    assert "nested.0" in (problem(case) or "") or "nested.1" in (problem(case) or "")


def _scores(pairs: list[Any], num_classes: int, family: str) -> dict[str, Any]:
    """Count pixel by pixel; both families differ in labels that are neither a class nor 255."""
    hit, said, true = (np.zeros(num_classes, int) for _ in range(3))
    for prediction, label in pairs:
        for p, t in zip(make(prediction).flat, make(label).flat, strict=True):
            if t == 255 or (family == "S" and t >= num_classes):
                continue
            if p < num_classes:
                said[p] += 1
            if t < num_classes:
                true[t] += 1
                hit[t] += p == t
    with np.errstate(invalid="ignore"):
        ratios = {"IoU": hit / (said + true - hit), "Acc": hit / true, "Dice": 2 * hit / (said + true)}
    nulls = {key: [None if np.isnan(v) else float(v) for v in values] for key, values in ratios.items()}
    means = {f"m{key}": float(np.nanmean(values)) for key, values in ratios.items()}
    areas = {"intersect": hit, "pred": said, "label": true, "union": said + true - hit}
    return {key: value.tolist() for key, value in areas.items()} | nulls | means | {"aAcc": hit.sum() / true.sum()}


def test_one_metrics_case_may_hold_both_families() -> None:
    pairs = [
        [{"prediction": [[15, 22], [0, 1, 2, 6, 9], 41]}, {"classes": [[15, 22], [0, 1, 2, 5, 7, 255], 41]}],
        [{"prediction": [[8, 31], [0, 3, 5], 42]}, {"classes": [[8, 31], [0, 3, 6, 255], 43]}],
    ]
    case: dict[str, Any] = public("core", "metrics_absent") | {"flavour": "M+S"}
    case["inputs"] |= {"pairs": pairs, "num_classes": 5}
    case["expected"] = {family: _scores(pairs, 5, family) for family in ("M", "S")}
    assert case["expected"]["M"]["pred"] != case["expected"]["S"]["pred"]
    assert problem(case) is None
    case["expected"]["S"] = case["expected"]["M"]
    assert "S: union" in (problem(case) or "") or "S: pred" in (problem(case) or "")


def _cross_entropy(logits: Array, label: Array, class_weight: Array) -> tuple[Array, Array, Array]:
    """Return weighted loss (N, H, W), its gradient by the logits, and the weight of each pixel's class."""
    valid = label != 255
    true = np.where(valid, label, 0)
    probability = softmax(logits.astype(np.float64), axis=1)
    weight = class_weight[true] * valid
    hot = np.eye(logits.shape[1])[true].transpose(0, 3, 1, 2)
    loss = -np.log(np.take_along_axis(probability, true[:, None], axis=1)[:, 0]) * weight
    return loss, (probability - hot) * weight[:, None], weight


@pytest.mark.parametrize("weights", [[0.1, 3.0, 0.6, 1.0, 2.0], None])
def test_class_weights_count_in_what_is_sorted_and_in_the_loss(weights: list[float] | None) -> None:
    case = public("core", "ohem")
    inputs = case["inputs"] | {"class_weight": weights, "labels": {"blocks": [[2, 24, 40], 5, 255, 10]}}
    logits, label = make(inputs["logits"]), make(inputs["labels"])
    true = np.where(label == 255, 0, label)[:, None]
    np.put_along_axis(logits, true, np.take_along_axis(logits, true, axis=1) + inputs["add_to_true_class"], axis=1)
    loss, slope, weight = _cross_entropy(logits, label, np.array(weights or [1.0] * 5))
    probability = np.take_along_axis(softmax(logits.astype(np.float64), axis=1), true, axis=1)[:, 0]
    settings: list[dict[str, Any]] = []
    for threshold, min_kept in ((None, 150), (0.7, 50), (0.6, 700)):
        valid = label != 255
        if threshold is None:
            limit = np.sort(loss[valid])[-2 * min_kept]
            kept = valid & (loss >= limit)
        else:
            limit = max(np.sort(probability[valid])[min(2 * min_kept, valid.sum() - 1)], threshold)
            kept = valid & (probability < limit)
        places = [np.flatnonzero(image) for image in kept]
        settings.append(
            {
                "thresh": threshold,
                "min_kept": min_kept,
                "kept": int(kept.sum()),
                "kept_per_image": [len(place) for place in places],
                "first_kept": [int(place[0]) for place in places],
                "index_checksum": [int((7919 * place % 1000003).sum()) for place in places],
                "loss": float((loss * kept).sum() / label.size),
                "gradient_times_pixels": sample(slope * kept[:, None]),
                "s_loss_over_kept": float((loss * kept).sum() / (weight * kept).sum()),
            }
        )
    assert problem(case | {"inputs": inputs, "expected": {"settings": settings}}) is None
    if weights:
        ignored = inputs | {"class_weight": None}
        assert "kept" in (problem(case | {"inputs": ignored, "expected": {"settings": settings}}) or "")


def test_class_weights_count_in_the_cross_entropy_of_both_families() -> None:
    case = public("core", "loss_ce")
    weights = [0.2, 1.5, 3.0, 0.7]
    case["inputs"] |= {"class_weight": weights, "num_classes": 4, "loss_weight": 0.5}
    case["inputs"] |= {"logits": {"normal": [[3, 4, 21, 17], 5, 2.0]}, "labels": {"blocks": [[3, 21, 17], 4, 255, 6]}}
    case["inputs"]["pixel_weight_abs_of"] = {"normal": [[3, 21, 17], 8]}
    logits, label = make(case["inputs"]["logits"]), make(case["inputs"]["labels"])
    pixel = np.abs(make(case["inputs"]["pixel_weight_abs_of"]))
    loss, slope, weight = _cross_entropy(logits, label, np.array(weights))
    divisors = {"class_weight_all": label.size, "class_weight_valid": (label != 255).sum()}
    divisors["s_class_weight"] = weight.sum()
    case["expected"] = {
        name: {
            "value": 0.5 * loss.sum() / divisor,
            "gradient_times_pixels": sample(0.5 * slope * label.size / divisor),
        }
        for name, divisor in divisors.items()
    }
    case["expected"]["pixel_and_class_weight_all"] = {
        "value": 0.5 * (loss * pixel).sum() / label.size,
        "gradient_times_pixels": sample(0.5 * slope * pixel[:, None]),
    }
    assert problem(case) is None
    case["inputs"]["class_weight"] = None
    assert "class_weight_all" in (problem(case) or "")


def _nearest(label: Array, size: tuple[int, int]) -> Array:
    rows, columns = (np.arange(new) * old // new for old, new in zip(label.shape, size, strict=True))
    return label[rows][:, columns]


def test_a_multiple_is_a_second_resize_of_the_first_ones_result() -> None:
    case = public("core", "resize_values_down")
    case["inputs"] |= {"multiple": 16, "labels": {"classes": [[37, 53], list(range(9)), 61, 1]}}
    pixels, label = make(case["inputs"]["pixels"]), make(case["inputs"]["labels"])
    factor = min(40 / 53, 25 / 37)
    first, second = (int(37 * factor + 0.5), int(53 * factor + 0.5)), (32, 48)
    once = np.rint(resize(pixels.transpose(2, 0, 1).astype(np.float64), first))
    image, twice = np.rint(resize(once, second)).transpose(1, 2, 0), _nearest(_nearest(label, first), second)
    values, counts = np.unique(twice, return_counts=True)
    case["expected"] = {
        "shape": list(second),
        "image": sample(image),
        "label_rows": twice.tolist(),
        "label_counts": {str(value): int(number) for value, number in zip(values, counts, strict=True)},
    }
    case["tolerance"]["image_atol"] = 2  # one gray level by each of the two
    assert problem(case) is None
    direct = cv2.resize(pixels, second[::-1], interpolation=cv2.INTER_LINEAR)
    assert np.abs(direct.astype(int) - image).max() > 2 * case["tolerance"]["image_atol"]
    assert (_nearest(label, second) != twice).any()


def _network(inputs: dict[str, Any], image: Array) -> Array:
    model = inputs["model"]
    weight, bias = make(model["weight"]).astype(np.float64), make(model["bias"]).astype(np.float64)
    return convolve(image, weight, stride=model["stride"], padding=model["padding"], bias=bias)


def _windows(length: int, crop: int, stride: int) -> list[int]:
    count = max(length - crop + stride - 1, 0) // stride + 1
    return [max(min(i * stride + crop, length) - crop, 0) for i in range(count)]


def _slide(inputs: dict[str, Any], image: Array, crop: list[int], stride: list[int]) -> Array:
    total, times = 0.0, np.zeros(image.shape[-2:])
    for y in _windows(image.shape[-2], crop[0], stride[0]):
        for x in _windows(image.shape[-1], crop[1], stride[1]):
            seen = image[..., y : y + crop[0], x : x + crop[1]]
            large = resize(_network(inputs, seen), seen.shape[-2:])
            bottom, right = (image.shape[i] - start - seen.shape[i] for i, start in ((2, y), (3, x)))
            edges = ((0, 0), (0, 0), (y, bottom), (x, right))
            total = total + np.pad(large, edges)
            times += np.pad(np.ones(seen.shape[-2:]), edges[2:])
    return np.asarray(total / times)


def test_images_of_a_batch_are_independent_in_family_m() -> None:
    case = public("core", "slide_m_odd")
    inputs = case["inputs"]
    inputs |= {"image": {"gaussian_image": [[3, 3, 43, 58], 7]}, "num_classes": 7, "flip": True}
    inputs |= {"valid_shape": [40, 51], "original_shape": [55, 33], "crop_size": [24, 32], "stride": [13, 20]}
    inputs["model"] |= {"weight": {"weights": ["toy.weight", [7, 3, 5, 5]]}, "bias": {"weights": ["toy.bias", [7]]}}
    inputs["model"] |= {"stride": 3, "padding": 2}
    logits = _slide(inputs, make(inputs["image"]).astype(np.float64), [24, 32], [13, 20])
    mean = softmax(resize(logits[..., :40, :51], (55, 33)), axis=1)[..., ::-1]
    case["expected"] = {
        "logits_before_rescale": sample(logits),
        "probabilities": sample(mean),
        "prediction_counts": np.bincount(mean.argmax(axis=1).ravel(), minlength=7).tolist(),
    }
    assert problem(case) is None


@pytest.mark.parametrize("is_probability", [True, False])
def test_images_of_a_batch_are_independent_in_family_s(is_probability: bool) -> None:
    case = public("core", "flip_s_pairs")
    inputs = case["inputs"]
    inputs |= {"image": {"gaussian_image": [[2, 3, 31, 45], 3]}, "num_classes": 6, "original_shape": [40, 29]}
    inputs |= {"flip_pairs": [[0, 4], [2, 3]]}
    inputs["model"] |= {"weight": {"weights": ["toy.weight", [6, 3, 3, 3]]}, "bias": {"weights": ["toy.bias", [6]]}}
    inputs["tta"] |= {"multiscale": [1, 0.75], "use_probs_before_resize": is_probability}
    case["tolerance"] = {"rtol": 1e-4, "atol": 1e-5}  # float32 against the float64 of this test
    image, entries = make(inputs["image"]).astype(np.float64), []
    for ratio in (1, 0.75):
        size = (int(31 * ratio), int(45 * ratio))
        rows, columns = varied.bilinear(31, size[0], ratio), varied.bilinear(45, size[1], ratio)
        view = rows @ image @ columns.T
        for is_mirrored in (False, True):
            scores = _network(inputs, view[..., ::-1] if is_mirrored else view)
            scores = softmax(scores, axis=1) if is_probability else scores
            entries.append(scores[:, [4, 1, 3, 2, 0, 5]][..., ::-1] if is_mirrored else scores)
    mean = np.mean([resize(entry, (40, 29)) for entry in entries], axis=0)
    case["expected"] = {
        "entries": [sample(entry) for entry in entries],
        "mean": sample(mean),
        "prediction_counts": np.bincount(mean.argmax(axis=1).ravel(), minlength=6).tolist(),
    }
    assert problem(case) is None


class _Hostile:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def _hostile(path: Path, marker: Path) -> None:
    """Write a file of torch.save whose pickle runs a command."""
    buffer = io.BytesIO()
    torch.save({"state_dict": {"weight": torch.ones(2)}}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                content = pickle.dumps({"state_dict": {}, "meta": _Hostile(f"touch {marker}")}, protocol=2)
            target.writestr(name, content)


def test_a_file_with_an_error_must_be_refused_and_nothing_of_it_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "ran"
    _hostile(tmp_path / "hostile.pth", marker)
    torch.save({"state_dict": {"weight": torch.from_numpy(fill("weight", (2, 3)))}}, tmp_path / "good.pth")
    total = float(fill("weight", (2, 3)).astype(np.float64).sum())
    case = public("core", "checkpoints") | {"inputs": {"files": ["hostile.pth", "good.pth"]}}
    case["expected"] = {
        "hostile.pth": {"error": "it would run code"},
        "good.pth": {"tensors": {"weight": {"shape": [2, 3], "sum": total}}},
    }
    assert problem(case, tmp_path) is None
    assert not marker.exists()
    case["inputs"]["files"] = ["good.pth", "hostile.pth"]
    case["expected"]["good.pth"] = {"error": "it is said to be bad"}
    assert "good.pth: reading it" in (problem(case, tmp_path) or "")
    monkeypatch.setattr(training, "read_published", functools.partial(read_published, unsafe=True))
    case["inputs"]["files"] = ["hostile.pth"]
    assert "os.system" in (problem(case, tmp_path) or "")
