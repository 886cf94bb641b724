"""MemoryNet's adapter on cases with other values than the public ones; expected values in NumPy, by memorynet/PAPER."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.parity import varied
from tests.parity.case_files import DEFAULT_DIRECTORY, ParityCase
from tests.parity.fill import fill, image, labels, sample
from tests.parity.memorynet import network
from tests.parity.varied import Array, convolve, filled, part, problem, public, resize, softmax


def _updated(memory: Array, features: Array, label: Array, momentum: float, strategy: str) -> Array:
    """Return the memory after a step, class by class and pixel by pixel (memorynet/PAPER 4)."""
    large, after = resize(features, label.shape[1:]).transpose(0, 2, 3, 1), memory.copy()
    for number, rows in enumerate(memory):
        pixels = large[label == number]
        empty = [slot for slot, row in enumerate(rows) if not row.any()]
        if not len(pixels):
            continue
        if empty:
            after[number, empty[0]] = pixels.mean(axis=0)
            continue
        lengths = np.linalg.norm(pixels, axis=1)[:, None] * np.linalg.norm(rows, axis=1)
        cosine = pixels @ rows.T / lengths  # (pixels, slots)
        for slot in range(len(rows)):
            own = cosine.argmax(axis=1) == slot
            weight = np.ones(own.sum()) if strategy == "mean" else 1 - cosine[own, slot]
            mean = weight @ pixels[own] / weight.sum() if own.any() else 0.0
            after[number, slot] = (1 - momentum) * rows[slot] + momentum * mean
    return after


@pytest.mark.parametrize(
    ("rule", "is_unlabeled"),
    [
        ("every pixel", lambda label: np.ones(label.shape, bool)),
        ("label >= num_classes // 2", lambda label: label >= 4),
        ("labels() then every pixel with label >= num_classes // 2 set to 255", lambda label: label >= 4),
        ("labels() then pixels where label < 3 are set to 255", lambda label: label < 3),
        ("labels() then label == 2 or label == 7 set to 255", lambda label: np.isin(label, (2, 7))),
        ("labels() as is", lambda label: np.zeros(label.shape, bool)),
    ],
)
@pytest.mark.parametrize(("strategy", "slots"), [("cosine_similarity", 1), ("cosine_similarity", 4), ("mean", 1)])
def test_a_label_rule_says_what_is_not_labeled(rule: str, is_unlabeled: Any, strategy: str, slots: int) -> None:
    case, num_classes, channels, batch = public("memorynet", "memory_update_cosine"), 9, 6, 3
    sizes = {"label_size": [33, 26], "feature_size": [5, 4]}
    case |= sizes | {"num_classes": num_classes, "slots": slots, "channels": channels, "batch": batch}
    shape, zeroed = (num_classes, slots, channels), [[1, 0], [4, slots - 1], [8, 0]]
    case["memory_before"] = {"fill_name": "another.memory", "shape": list(shape), "zeroed": zeroed}
    case |= {"strategy": strategy, "label_rule": rule}
    case["momentum"] = {"base_momentum": 0.8, "base_lr": 0.02, "adjust_by_learning_rate": strategy == "mean"}
    memory = fill("another.memory", shape).astype(np.float64)
    for number, slot in zeroed:
        memory[number, slot] = 0
    case["steps"] = []
    for step, lr in enumerate((0.02, 0.013)):
        features = image((batch, channels, 5, 4), 60 + step).astype(np.float64)
        label = labels((batch, 33, 26), num_classes, seed=70 + step)
        label[is_unlabeled(label)] = 255
        momentum = 0.8 / 0.02 * lr if strategy == "mean" else 0.8
        memory = _updated(memory, features, label, momentum, strategy)
        given = {"learning_rate": lr, "feature_seed": 60 + step, "label_seed": 70 + step}
        norms = np.linalg.norm(memory, axis=-1).ravel().tolist()
        case["steps"].append(given | {"memory": sample(memory), "class_norms": norms})
    assert problem(case) is None
    case["label_rule"] = "labels() as is" if rule != "labels() as is" else "every pixel"
    assert "memory after step 1" in (problem(case) or "")


def test_a_rule_that_cannot_be_read_is_no_rule() -> None:
    with pytest.raises(ValueError, match="the odd ones"):
        problem(public("memorynet", "memory_update_cosine") | {"label_rule": "the odd ones"})


def _block(x: Array, state: dict[str, Array], name: str, slope: float, padding: int = 0) -> Array:
    """Convolution, batch norm, (leaky) ReLU."""
    x = varied.batch_norm(convolve(x, state[f"{name}.0.weight"], padding=padding), state, f"{name}.1.")
    return np.where(x > 0, x, slope * x)


def _attention(query: Array, key: Array, state: dict[str, Array], slope: float) -> Array:
    """Return the attention block (memorynet/PAPER 3.3)."""
    q, k = query, key
    for i in ("0", "1"):
        q, k = _block(q, state, f"query_project.{i}", slope), _block(k, state, f"key_project.{i}", slope)
    v = _block(key, state, "value_project", slope)
    q, k, v = (x.reshape(*x.shape[:2], -1) for x in (q, k, v))
    weights = softmax(np.einsum("bcq,bck->bqk", q, k) * q.shape[1] ** -0.5, axis=2)
    context = np.einsum("bqk,bck->bcq", weights, v).reshape(len(query), -1, *query.shape[-2:])
    return _block(context, state, "out_project", slope)


def test_hard_reading_takes_the_row_of_the_most_probable_class() -> None:
    """What comes before the reading is the public case's, which equals the reference; what follows is computed here."""
    case = public("memorynet", "fcn_r50_lip")
    for key in ("losses", "losses_float32", "grad_norms", "training"):
        del case[key]
    soft = ParityCase.create(DEFAULT_DIRECTORY, case)
    stages = {comparison.name: comparison for comparison in network.compare(soft)}
    assert stages["bottleneck"].difference() is None
    assert stages["logits_stage1"].difference() is None
    pixels, first = (stages[name].ours.double().numpy() for name in ("bottleneck", "logits_stage1"))
    state, slope = filled(case["state_dict"]), 0.01
    memory = part(state, "memory_module.")
    rows = memory["memory"][first.argmax(axis=1), 0].transpose(0, 3, 1, 2)  # (B, C, h, w)
    read = _attention(pixels, rows, part(memory, "self_attention."), slope)
    fused = _block(np.concatenate([pixels, read], axis=1), memory, "bottleneck", slope, padding=1)
    head = part(state, "decoder_stage2.")
    hidden = varied.batch_norm(convolve(fused, head["0.weight"]), head, "1.")
    logits = convolve(np.where(hidden > 0, hidden, slope * hidden), head["4.weight"], bias=head["4.bias"])
    computed = {"aggregated_memory.0": rows, "memory_attention.0": read, "memory_bottleneck": fused}
    computed |= {"memory_output": fused, "logits": logits}
    public_outputs = dict(case["outputs"])
    case["outputs"] |= {name: sample(value) for name, value in computed.items()}
    case["config"]["hard"] = True
    assert problem(case) is None
    assert "aggregated_memory.0" in (problem(case | {"outputs": public_outputs}) or "")


def test_views_of_a_batch_are_independent_and_the_network_is_read_from_its_formulas() -> None:
    case, num_classes = public("memorynet", "tta_slide_ms_flip"), 4
    case |= {"num_classes": num_classes, "input": {"shape": [2, 3, 34, 41], "seed": 5}, "original_size": [30, 37]}
    case["model"] = {"kind": "one convolution 5x5, padding 2", "stride": 3}
    case["model"]["weight"] = '0.5 * fill("other.weight", (classes, 3, 5, 5))'
    case["model"]["bias"] = 'fill("toy.bias", (classes,))'
    case["inference"] |= {"crop": [20, 16], "stride": [9, 11], "ratios": [1.0, 0.5], "flip_pairs": [[1, 3]]}
    weight, bias = 0.5 * fill("other.weight", (num_classes, 3, 5, 5)), fill("toy.bias", (num_classes,))
    x, views = image((2, 3, 34, 41), 5).astype(np.float64), []
    for ratio in (1.0, 0.5):
        size = (int(34 * ratio), int(41 * ratio))
        view = varied.bilinear(34, size[0], ratio) @ x @ varied.bilinear(41, size[1], ratio).T
        for is_mirrored in (False, True):
            seen = view[..., ::-1] if is_mirrored else view
            total, times = np.zeros((2, num_classes, *size)), np.zeros(size)
            for top in _starts(size[0], 20, 9):
                for left in _starts(size[1], 16, 11):
                    window = (..., slice(top, top + 20), slice(left, left + 16))
                    scores = convolve(seen[window], weight, stride=3, padding=2, bias=bias)
                    total[window] += softmax(resize(scores, seen[window].shape[-2:]), axis=1)
                    times[window] += 1
            scores = total / times
            views.append(scores[:, [0, 3, 2, 1]][..., ::-1] if is_mirrored else scores)
    mean = np.mean([resize(view, (30, 37)) for view in views], axis=0)
    case["outputs"] = {"views": [list(view.shape) for view in views], "averaged": sample(mean)}
    case["outputs"] |= {"first_view": sample(views[0]), "last_view": sample(views[-1])}
    case["outputs"]["prediction_counts"] = np.bincount(mean.argmax(axis=1).ravel(), minlength=num_classes).tolist()
    assert problem(case) is None


def _starts(length: int, crop: int, stride: int) -> list[int]:
    count = max(length - crop + stride - 1, 0) // stride + 1
    return [max(min(i * stride + crop, length) - crop, 0) for i in range(count)]
