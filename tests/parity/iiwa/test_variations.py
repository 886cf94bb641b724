"""IIWA's adapter on cases with other values than the public ones; expected values in NumPy, by iiwa/PAPER 3 and 7."""

from __future__ import annotations

from math import erf
from typing import Any

import numpy as np
import pytest

from tests.parity.fill import image, labels, sample
from tests.parity.varied import (
    Array,
    attend,
    bilinear,
    filled,
    layer_norm,
    linear,
    problem,
    public,
    resize,
    sine,
    softmax,
)


@pytest.mark.parametrize("class_weight", [None, [0.5, 1.0, 2.5, 0.1, 1.0, 4.0]])
@pytest.mark.parametrize(
    ("definition", "factor", "noise", "offset", "places", "void"),
    [
        ("image(shape,3) + 4.5 * onehot(g), g = labels sampled at rows and columns 1::3; "
         "class of an ignored pixel (255) is 2", 4.5, 1.0, 0.0, (1, 3), 2),
        ("0.5 * image(shape, seed) + 2.0 * onehot(g) - 1.25, where g = labels sampled at rows and columns ::3; "
         "class of an ignored pixel (255) is num_classes - 1", 2.0, 0.5, -1.25, (0, 3), 5),
    ],
)  # fmt: skip
def test_logits_follow_their_definition_and_class_weights_may_be_absent(
    definition: str,
    factor: float,
    noise: float,
    offset: float,
    places: tuple[int, int],
    void: int,
    class_weight: list[float] | None,
) -> None:
    case: dict[str, Any] = public("iiwa", "loss_ohem_cityscapes_keep1000") | {"num_classes": 6}
    case["config"] |= {"class_weight": class_weight, "min_kept": 90, "thresh": 0.55}
    shape, size = [3, 6, 11, 14], (33, 42)
    case["inputs"] = {"logits": {"shape": shape, "seed": 3, "definition": definition}}
    case["inputs"]["labels"] = {"shape": [3, *size], "seed": 2}
    label = labels((3, *size), 6, seed=2)
    start, step = places
    true = label[:, start::step, start::step]
    hot = np.eye(6)[np.where(true == 255, void, true)].transpose(0, 3, 1, 2)
    logits = noise * image(tuple(shape), 3) + factor * hot + offset
    rows, columns = bilinear(11, 33), bilinear(14, 42)
    probability = softmax(rows @ logits @ columns.T, axis=1)
    valid, index = label != 255, np.where(label == 255, 0, label)[:, None]
    own = np.take_along_axis(probability, index, axis=1)[:, 0]
    kept = valid & (own < max(np.sort(own[valid])[3 * 90], 0.55))
    weight = np.array(class_weight or [1.0] * 6)[index[:, 0]] * kept
    slope = (probability - np.eye(6)[index[:, 0]].transpose(0, 3, 1, 2)) * weight[:, None] / label.size
    gradient = rows.T @ slope @ columns * logits.size
    case |= {"ohem_kept_pixels": int(kept.sum()), "valid_pixels": int(valid.sum()), "pixels": label.size}
    case["losses"] = {"loss": float((-np.log(own) * weight).sum() / label.size)}
    case["outputs"] = {"ohem_weight": sample(kept), "grad_logits_times_numel": sample(gradient)}
    assert problem(case) is None
    case["config"]["class_weight"] = [1.0, 2.0, 1.0, 1.0, 1.0, 1.0]
    assert "loss" in (problem(case) or "")


def _padded(x: Array, window: tuple[int, int]) -> Array:
    bottom, right = -x.shape[1] % window[0], -x.shape[2] % window[1]
    return np.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0)))


def _windows(x: Array, window: tuple[int, int]) -> Array:
    """Cut a map (B, H, W, C) into windows, (B, n, N, C)."""
    batch, height, width, channels = x.shape
    (rows, columns) = window
    cut = x.reshape(batch, height // rows, rows, width // columns, columns, channels).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(batch, -1, rows * columns, channels)


def _joined(windows: Array, like: Array, window: tuple[int, int]) -> Array:
    batch, height, width, channels = like.shape
    (rows, columns) = window
    cut = windows.reshape(batch, height // rows, width // columns, rows, columns, channels)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(like.shape)


def _bias(table: Array, window: tuple[int, int]) -> Array:
    """Return the bias of every pair of positions, (M, N, N), from the table of differences."""
    rows, columns = window
    places = [(i, j) for i in range(rows) for j in range(columns)]
    index = [[(a - c + rows - 1) * (2 * columns - 1) + b - d + columns - 1 for c, d in places] for a, b in places]
    return table[np.array(index)].transpose(2, 0, 1)


def _gelu(x: Array) -> Array:
    return x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))


def _spread(tokens: Array, grid: tuple[int, int], like: Array) -> Array:
    maps = tokens.reshape(len(tokens), *grid, -1).transpose(0, 3, 1, 2)
    return resize(maps, like.shape[1:3], align_corners=True).transpose(0, 2, 3, 1)


def _self_attention(x: Array, state: dict[str, Array], window: tuple[int, int], heads: int) -> dict[str, Array]:
    _, height, width, channels = x.shape
    x = _padded(x, window)
    grid = (x.shape[1] // window[0], x.shape[2] // window[1])
    values: dict[str, Array] = {}
    q, k, v = np.split(linear(_windows(x, window).reshape(-1, np.prod(window), channels), state, "qkv."), 3, axis=-1)
    x = x + _joined(attend(q, k, v, heads, _bias(state["relative_position_bias_table"], window)), x, window)
    values["intra_residual"] = x
    values["intra_proj"] = linear(layer_norm(x, state, "proj.0."), state, "proj.1.")
    x = x + values["intra_proj"]
    tokens = _windows(x, window).mean(axis=2) + sine(*grid, channels, 1e-5)
    q, k, v = np.split(linear(tokens, state, "qkv2."), 3, axis=-1)
    x = x + _spread(attend(q, k, v, heads), grid, x)
    values["inter_residual"] = x
    values["inter_proj"] = linear(layer_norm(x, state, "proj2.0."), state, "proj2.1.")
    x = (x + values["inter_proj"])[:, :height, :width]
    values["before_ffn"] = x
    hidden = _gelu(linear(layer_norm(x, state, "norm1."), state, "mlp.fc1."))
    return values | {"out": layer_norm(x + linear(hidden, state, "mlp.fc2."), state, "norm2.")}


def test_self_attention_of_other_widths_heads_windows_sizes_and_a_scale() -> None:
    case: dict[str, Any] = public("iiwa", "self_c96_w4x8_13x21")
    dim, heads, window, ratio = 24, 3, (3, 5), 1.5
    case["config"] |= {"dim": dim, "num_heads": heads, "window_size": list(window), "mlp_ratio": ratio}
    case["inputs"]["x"] |= {"shape": [3, 7, 13, dim], "seed": 4}
    hidden = int(ratio * dim)
    sizes = {96: dim, 288: 3 * dim, 384: hidden, 105: 5 * 9, 8: heads, 32: 15}
    shapes = {name: [sizes[side] for side in shape] for name, shape in case["state_dict"].items()}
    case |= {"state_dict": shapes, "scale": {"relative_position_bias_table": 8.0, "qkv2.weight": 2.0}}
    case["params"] = sum(int(np.prod(shape)) for name, shape in shapes.items() if name not in case["kept"])
    state = filled(shapes, case["scale"])
    values = _self_attention(image((3, 7, 13, dim), 4).astype(np.float64), state, window, heads)
    weighted = float((values["out"] * image(values["out"].shape, 9)).sum())
    case["outputs"] = {name: sample(value) for name, value in values.items()}
    case |= {"losses": {"weighted_sum": weighted}, "grads": {"inputs": {}, "param_l2": {}}}
    assert problem(case) is None
    case["scale"]["relative_position_bias_table"] = 1.0
    assert "intra_residual" in (problem(case) or "")


def test_positions_may_be_channels_last() -> None:
    case = public("iiwa", "pos_c96_7x10")
    case["inputs"]["x"] |= {"shape": [2, 8, 5, 12], "layout": "NHWC"}
    expected = np.broadcast_to(sine(8, 5, 12, 1e-5).reshape(1, 8, 5, 12), (2, 8, 5, 12))
    case["outputs"] = {"pos": sample(expected)}
    assert problem(case) is None
    case["inputs"]["x"]["layout"] = "NCHW"
    assert "pos" in (problem(case) or "")
