"""Cases made from public ones by changing them, and what they are checked with: NumPy, step by step, in float64.

Nothing here uses the code under test. Maps are (B, C, H, W), tokens (B, N, C), as in the specifications.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.parity.case_files import DEFAULT_DIRECTORY, ParityCase, first_problem
from tests.parity.fill import fill

Array = np.ndarray


def public(paper: str, name: str) -> dict[str, Any]:
    """Return the content of a public case, to be changed."""
    return json.loads((DEFAULT_DIRECTORY / paper / f"{name}.json").read_text())


def problem(content: Mapping[str, Any], folder: Path = Path("varied")) -> str | None:
    """Return what is wrong with a varied case, see `first_problem`."""
    return first_problem(ParityCase.create(folder / "varied.json", content))


def filled(shapes: Mapping[str, Sequence[int]], scale: Mapping[str, float] | None = None) -> dict[str, Array]:
    """Return the tensors of a case by their names, float64."""
    state = {name: fill(name, tuple(shape)).astype(np.float64) for name, shape in shapes.items()}
    for suffix, factor in (scale or {}).items():
        state |= {name: factor * values for name, values in state.items() if name.endswith(suffix)}
    return state


def part(state: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    """Return the tensors under a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): values for name, values in state.items() if name.startswith(prefix)}


def softmax(x: Array, axis: int) -> Array:
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def linear(x: Array, state: Mapping[str, Array], name: str = "") -> Array:
    return x @ state[f"{name}weight"].T + state[f"{name}bias"]


def layer_norm(x: Array, state: Mapping[str, Array], name: str) -> Array:
    centered = x - x.mean(axis=-1, keepdims=True)
    normal = centered / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + 1e-5)
    return normal * state[f"{name}weight"] + state[f"{name}bias"]


def batch_norm(x: Array, state: Mapping[str, Array], name: str, *, is_training: bool = False) -> Array:
    mean, var = state[f"{name}running_mean"], state[f"{name}running_var"]
    if is_training:
        mean, var = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
    scale = state[f"{name}weight"] / np.sqrt(var + 1e-5)
    return (x - mean[:, None, None]) * scale[:, None, None] + state[f"{name}bias"][:, None, None]


def convolve(x: Array, weight: Array, *, stride: int = 1, padding: int = 0, bias: Array | None = None) -> Array:
    """Return the convolution of (B, C, H, W) with (O, C, k, k)."""
    side = weight.shape[-1]
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    height = (padded.shape[2] - side) // stride + 1
    width = (padded.shape[3] - side) // stride + 1
    total = np.zeros((len(x), len(weight), height, width))
    for i in range(side):
        for j in range(side):
            seen = padded[:, :, i : i + stride * height : stride, j : j + stride * width : stride]
            total += np.einsum("bchw,oc->bohw", seen, weight[:, :, i, j], optimize=True)
    return total if bias is None else total + bias[:, None, None]


def bilinear(size: int, new_size: int, factor: float | None = None, *, align_corners: bool = False) -> Array:
    """Return the matrix (new_size, size) of a bilinear resize along one axis; `factor` replaces new_size / size."""
    places = (np.arange(new_size) + 0.5) / (factor or new_size / size) - 0.5
    if align_corners:
        places = np.arange(new_size) * ((size - 1) / (new_size - 1) if new_size > 1 else 0)
    places = np.clip(places, 0, size - 1)
    lower = np.minimum(np.floor(places).astype(int), size - 1)
    upper = np.minimum(lower + 1, size - 1)
    matrix = np.zeros((new_size, size))
    np.add.at(matrix, (np.arange(new_size), lower), 1 - (places - lower))
    np.add.at(matrix, (np.arange(new_size), upper), places - lower)
    return matrix


def resize(x: Array, size: Sequence[int], **options: Any) -> Array:
    """Return maps (..., H, W) at another size."""
    rows, columns = (bilinear(old, new, **options) for old, new in zip(x.shape[-2:], size, strict=True))
    return rows @ x @ columns.T


def heads_apart(x: Array, heads: int) -> Array:
    """(B, N, M D) -> (B, M, N, D)."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def attend(query: Array, key: Array, value: Array, heads: int, bias: Array | float = 0.0) -> Array:
    """Return multi-head attention of (B, N, C) tokens, without projections."""
    q, k, v = (heads_apart(x, heads) for x in (query, key, value))
    weights = softmax(q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1]) + bias, axis=-1)
    return (weights @ v).transpose(0, 2, 1, 3).reshape(query.shape)


def deform(value: Array, sizes: Sequence[Sequence[int]], locations: Array, weights: Array) -> Array:
    """Return what is sampled: (B, S, M, D), locations (B, Q, M, L, P, 2), weights (B, Q, M, L, P) -> (B, Q, M D)."""
    batch, queries, heads, *_ = weights.shape
    out = np.zeros((batch, queries, heads, value.shape[-1]))
    for place, corner, share, _ in corners(sizes, locations):
        b, q, m, *_ = place
        out[b, q, m] += weights[place] * share * value[b, corner, m]
    return out.reshape(batch, queries, -1)


def deform_gradients(
    value: Array, sizes: Sequence[Sequence[int]], locations: Array, weights: Array, grad: Array
) -> tuple[Array, Array, Array]:
    """Return the gradients of values, locations and weights for that of the output, (B, Q, M D)."""
    grad = grad.reshape(*weights.shape[:3], -1)
    results = np.zeros_like(value), np.zeros_like(locations), np.zeros_like(weights)
    for place, corner, share, slopes in corners(sizes, locations):
        b, q, m, *_ = place
        product = float(grad[b, q, m] @ value[b, corner, m])
        results[0][b, corner, m] += weights[place] * share * grad[b, q, m]
        results[1][place] += weights[place] * product * slopes
        results[2][place] += share * product
    return results


def corners(sizes: Sequence[Sequence[int]], locations: Array) -> Any:
    """Yield the pixels around every sample: its place (b, q, m, l, p), the row of the value, its share and its slopes.

    Pixels outside a level count as zero; the slopes are those of the share by the location's x and y.
    """
    starts = np.cumsum([0, *(height * width for height, width in sizes)])
    for place in np.ndindex(*locations.shape[:-1]):
        height, width = sizes[place[3]]
        x, y = locations[place] * (width, height) - 0.5
        left, top = int(np.floor(x)), int(np.floor(y))
        for row, share_y, slope_y in ((top, top + 1 - y, -1), (top + 1, y - top, 1)):
            for column, share_x, slope_x in ((left, left + 1 - x, -1), (left + 1, x - left, 1)):
                if 0 <= row < height and 0 <= column < width:
                    slopes = np.array([slope_x * share_y * width, slope_y * share_x * height])
                    yield place, starts[place[3]] + row * width + column, share_x * share_y, slopes


def deform_attention(
    query: Array, reference: Array, value: Array, sizes: Sequence[Sequence[int]], state: Mapping[str, Array], heads: int
) -> Array:
    """Return the layer's output; references (B or 1, Q, L or 1, 2), `state` has sampling_offsets.weight and so on."""
    batch, queries, _ = query.shape
    levels = len(sizes)
    shape = (batch, queries, heads, levels, -1)
    offsets = linear(query, state, "sampling_offsets.").reshape(*shape[:4], -1, 2)
    scores = linear(query, state, "attention_weights.").reshape(batch, queries, heads, -1)
    weights = softmax(scores, axis=-1).reshape(shape)
    extent = np.array([[width, height] for height, width in sizes])[:, None]  # (L, 1, 2)
    places = np.broadcast_to(reference, (batch, queries, levels, 2))[:, :, None, :, None] + offsets / extent
    projected = linear(value, state, "value_proj.")
    projected = projected.reshape(batch, value.shape[1], heads, -1)
    return linear(deform(projected, sizes, places, weights), state, "output_proj.")


def centers(sizes: Sequence[Sequence[int]]) -> Array:
    """Return the pixel centers of maps as (x, y) in [0, 1], (1, N, 1, 2)."""
    points = [((j + 0.5) / w, (i + 0.5) / h) for h, w in sizes for i in range(h) for j in range(w)]
    return np.array(points)[None, :, None]


def sine(height: int, width: int, channels: int, epsilon: float) -> Array:
    """Return a sine position map, (height * width, channels): rows and columns count from one, up to 2 pi."""
    half = channels // 2
    rows = []
    for i in range(1, height + 1):
        for j in range(1, width + 1):
            row = []
            for place, length in ((i, height), (j, width)):
                angle = 2 * np.pi * place / (length + epsilon)
                waves: list[Callable[[float], float]] = [np.sin, np.cos]
                row += [waves[k % 2](angle / 10000 ** (2 * (k // 2) / half)) for k in range(half)]
            rows.append(row)
    return np.array(rows)
