"""UN-EPT's adapter on cases with other values than the public ones; expected values in NumPy, by unept/PAPER 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.parity.fill import fill, image, sample
from tests.parity.varied import (
    Array,
    attend,
    batch_norm,
    centers,
    convolve,
    deform,
    deform_attention,
    deform_gradients,
    filled,
    layer_norm,
    linear,
    part,
    problem,
    public,
    sine,
    softmax,
)

Sizes = Sequence[Sequence[int]]
_SHARPER = {"sampling_offsets.weight": 4.0, "attention_weights.weight": 4.0}
"""Scale of the tensors whose effect plain filling makes small."""


@pytest.mark.parametrize(
    ("given", "seed", "factor", "offset"),
    [
        ({}, 32, 1.6, -0.3),
        ({"rule": "RandomState(seed).rand(*shape) * 1.2 - 0.1"}, 32, 1.2, -0.1),
        ({"seed": 5, "rule": "(RandomState(5).rand(B,Q,M,L,P,2)*2.0-0.5) as float32"}, 5, 2.0, -0.5),
        ({"seed": 6, "rule": "uniform in [-0.25, 1.5)"}, 6, 1.75, -0.25),
    ],
)
def test_locations_have_a_rule_and_a_seed_of_their_own(
    given: dict[str, Any], seed: int, factor: float, offset: float
) -> None:
    case, sizes = public("unept", "msda_op"), [[4, 3], [2, 5], [1, 1], [3, 3]]
    batch, queries, heads, width, points = 2, 6, 3, 5, 2
    rows, shape = sum(height * width for height, width in sizes), (batch, queries, heads, len(sizes), points)
    case["level_sizes"] = sizes
    case["input"] = {"value": {"shape": [batch, rows, heads, width], "seed": 31}}
    case["input"]["weights_before_softmax"] = {"shape": [batch, queries, heads, len(sizes) * points], "seed": 3}
    if given:
        case["input"]["locations"] = {"shape": [*shape, 2], **given}
    value = image((batch, rows, heads, width), 31).astype(np.float64)
    locations = (np.random.RandomState(seed).rand(*shape, 2) * factor + offset).astype(np.float32).astype(np.float64)
    weights = softmax(image((batch, queries, heads, len(sizes) * points), 3).astype(np.float64), axis=-1).reshape(shape)
    output = deform(value, sizes, locations, weights)
    gradients = deform_gradients(value, sizes, locations, weights, 2 * output)
    names = ("output", "grad_value", "grad_locations", "grad_weights")
    case["outputs"] = {name: sample(ours) for name, ours in zip(names, (output, *gradients), strict=True)}
    assert problem(case) is None
    case["input"]["locations"] = {"shape": [*shape, 2], **given, "seed": seed + 1}
    assert "output" in (problem(case) or "")


def _feedforward(x: Array, state: dict[str, Array]) -> Array:
    return linear(np.maximum(linear(x, state, "linear1."), 0), state, "linear2.")


def _encoder(tokens: Array, positions: Array, sizes: Sizes, state: dict[str, Array], heads: int) -> Array:
    """One layer (unept/PAPER 3.6)."""
    read = deform_attention(tokens + positions, centers(sizes), tokens, sizes, part(state, "self_attn."), heads)
    tokens = layer_norm(tokens + read, state, "norm1.")
    return layer_norm(tokens + _feedforward(tokens, state), state, "norm2.")


def _decoder(queries: Array, grid: int, memory: Array, sizes: Sizes, state: dict[str, Array], heads: int) -> Array:
    """One layer on (B, Q, C) (unept/PAPER 3.7): every query attends to the same pixel of all images."""
    attention = part(state, "self_attn.")
    projected = queries @ attention["in_proj_weight"].T + attention["in_proj_bias"]
    q, k, v = (x.transpose(1, 0, 2) for x in np.split(projected, 3, axis=-1))  # (Q, B, C): the images are the keys
    mixed = linear(attend(q, k, v, heads).transpose(1, 0, 2), attention, "out_proj.")
    queries = layer_norm(queries + mixed, state, "norm2.")
    read = deform_attention(queries, centers([(grid, grid)]), memory, sizes, part(state, "cross_attn."), heads)
    queries = layer_norm(queries + read, state, "norm1.")
    return layer_norm(queries + _feedforward(queries, state), state, "norm3.")


def _layer_shapes(prefix: str, kind: str, width: int, samples: int, ffn: int) -> dict[str, list[int]]:
    """Return the tensors of a layer; `samples` is heads x levels x points."""
    attention = "self_attn" if kind == "encoder" else "cross_attn"
    shapes = {"linear1": [ffn, width], "linear2": [width, ffn], f"{attention}.value_proj": [width, width]}
    shapes |= {f"{attention}.output_proj": [width, width], f"{attention}.sampling_offsets": [2 * samples, width]}
    shapes |= {f"{attention}.attention_weights": [samples, width]}
    if kind == "decoder":
        shapes["self_attn.out_proj"] = [width, width]
    named = {f"{prefix}{name}.weight": shape for name, shape in shapes.items()}
    named |= {f"{prefix}{name}.bias": shape[:1] for name, shape in shapes.items()}
    for norm in ("norm1", "norm2", "norm3")[: 2 if kind == "encoder" else 3]:
        named |= {f"{prefix}{norm}.weight": [width], f"{prefix}{norm}.bias": [width]}
    if kind == "decoder":
        named |= {f"{prefix}self_attn.in_proj_weight": [3 * width, width]}
        named |= {f"{prefix}self_attn.in_proj_bias": [3 * width]}
    return named


def _total(shapes: dict[str, list[int]]) -> int:
    return sum(int(np.prod(shape)) for shape in shapes.values())


def test_the_attention_takes_any_number_of_levels_heads_and_points() -> None:
    case, sizes, width, heads, points = public("unept", "msda"), [[2, 3], [4, 1], [1, 2], [2, 2], [3, 1]], 12, 3, 2
    rows = sum(height * width for height, width in sizes)
    prefix = "context_branch.encoder.layers.1."
    shapes = _layer_shapes(prefix, "encoder", width, heads * len(sizes) * points, 1)
    shapes = {name: shape for name, shape in shapes.items() if ".self_attn." in name}
    case |= {"embed": width, "heads": heads, "levels": len(sizes), "points": points, "level_sizes": sizes}
    case |= {"state_dict": shapes, "scale": _SHARPER, "params": _total(shapes)}
    case["input"] = {"query": {"shape": [3, 7, width], "seed": 1}, "value": {"shape": [3, rows, width], "seed": 2}}
    case["notes"] = "Reference points (1,Q,L,2) = RandomState(9).rand(1,Q,L,2).astype(float32)*1.5 - 0.25, so."
    reference = np.random.RandomState(9).rand(1, 7, len(sizes), 2) * 1.5 - 0.25
    query, value = image((3, 7, width), 1).astype(np.float64), image((3, rows, width), 2).astype(np.float64)
    state = part(filled(shapes, _SHARPER), f"{prefix}self_attn.")

    def loss(query: Array, value: Array) -> float:
        return float((deform_attention(query, reference, value, sizes, state, heads) ** 2).sum())

    case["outputs"] = {"output": sample(deform_attention(query, reference, value, sizes, state, heads))}
    case["outputs"]["grad_query"] = sample(_slopes(lambda x: loss(x, value), query))
    case["outputs"]["grad_value"] = sample(_slopes(lambda x: loss(query, x), value))
    assert problem(case) is None


def _slopes(function: Any, x: Array) -> Array:
    """Return the gradient of a function by central differences."""
    gradient, step = np.zeros_like(x), 1e-5
    for place in np.ndindex(*x.shape):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[place] += sign * step
            ends.append(function(moved))
        gradient[place] = (ends[0] - ends[1]) / (2 * step)
    return gradient


@pytest.mark.parametrize("sizes", [[[3, 2]], [[2, 3], [1, 4]], [[2, 2], [3, 1], [1, 1], [2, 1]]])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_context_branch_takes_any_levels_and_couples_the_images(sizes: list[list[int]], batch: int) -> None:
    case, width, heads, points, ffn, depth, grid = public("unept", "context_branch"), 8, 2, 3, 10, 2, 3
    levels, prefix = len(sizes), "context_branch."
    shapes = {f"{prefix}level_embed": [levels, width], "query_embed.weight": [grid**2, width]}
    for stack in ("encoder", "decoder"):
        for i in range(depth):
            shapes |= _layer_shapes(f"{prefix}{stack}.layers.{i}.", stack, width, heads * levels * points, ffn)
    case |= {"embed": width, "heads": heads, "points": points, "ffn": ffn, "depth": depth, "level_sizes": sizes}
    case |= {"query_grid": grid, "state_dict": shapes, "scale": _SHARPER, "levels": levels}
    case["params"] = _total(shapes) - grid**2 * width
    given = [{"shape": [batch, width, *size], "seed": 40 + i} for i, size in enumerate(sizes)]
    case["input"] = {"levels": given, "context": {"shape": [grid**2, batch, width], "seed": 4}}
    state = filled(shapes, _SHARPER)
    maps = [image((batch, width, *size), 40 + i).astype(np.float64) for i, size in enumerate(sizes)]
    tokens = np.concatenate([x.reshape(batch, width, -1).transpose(0, 2, 1) for x in maps], axis=1)
    embeddings = zip(sizes, state[f"{prefix}level_embed"], strict=True)
    positions = np.concatenate([sine(h, w, width, 1e-6) + embedding for (h, w), embedding in embeddings])
    for i in range(depth):
        tokens = _encoder(tokens, positions, sizes, part(state, f"{prefix}encoder.layers.{i}."), heads)
    queries = image((grid**2, batch, width), 4).transpose(1, 0, 2) + state["query_embed.weight"]
    for i in range(depth):
        queries = _decoder(queries, grid, tokens, sizes, part(state, f"{prefix}decoder.layers.{i}."), heads)
    case["outputs"] = {"output": sample(queries.transpose(1, 0, 2))}
    assert problem(case) is None


def test_single_layers_of_other_widths_and_batches() -> None:
    sizes, width, heads, points, ffn, grid = [[2, 2], [1, 3]], 12, 4, 1, 6, 2
    rows = sum(height * width for height, width in sizes)
    common = {"embed": width, "heads": heads, "levels": 2, "points": points, "ffn": ffn, "level_sizes": sizes}
    prefix = "context_branch.encoder.layers.3."
    shapes = _layer_shapes(prefix, "encoder", width, heads * 2 * points, ffn)
    case = public("unept", "encoder_layer") | common | {"state_dict": shapes, "params": _total(shapes)}
    case["input"] = {"src": {"shape": [3, rows, width], "seed": 1}, "pos": {"shape": [3, rows, width], "seed": 2}}
    tokens, positions = (image((3, rows, width), seed).astype(np.float64) for seed in (1, 2))
    layer = part(filled(shapes), prefix)
    case["outputs"] = {"output": sample(_encoder(tokens, positions, sizes, layer, heads))}
    assert problem(case) is None

    prefix = "context_branch.decoder.layers.1."
    shapes = _layer_shapes(prefix, "decoder", width, heads * 2 * points, ffn)
    case = public("unept", "decoder_layer") | common | {"state_dict": shapes, "params": _total(shapes)}
    case |= {"query_grid": grid}
    case["input"] = {"tgt": {"shape": [4, 3, width], "seed": 1}, "memory": {"shape": [3, rows, width], "seed": 2}}
    queries, memory = image((4, 3, width), 1).transpose(1, 0, 2), image((3, rows, width), 2).astype(np.float64)
    layer = part(filled(shapes), prefix)
    coupled = _decoder(queries, grid, memory, sizes, layer, heads).transpose(1, 0, 2)
    alone = _decoder(queries[:1], grid, memory[:1], sizes, layer, heads).transpose(1, 0, 2)
    case["outputs"] = {"output_batch3": sample(coupled), "output_first_image_alone": sample(alone)}
    assert problem(case) is None


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_spatial_branch_of_another_width_and_size_is_scaled(mode: str) -> None:
    case, width, scale = public("unept", "spatial_branch"), 12, {"convblock2.bn.weight": 4.0, "mask_head.3.weight": 0.5}
    sizes: dict[int, int] = {64: width // 4, 128: width // 2, 256: width}
    shapes: dict[str, list[int]] = {}
    for name, shape in case["state_dict"].items():
        shapes[name] = [sizes.get(side) or side for side in shape]
    counted = [shape for name, shape in shapes.items() if "running" not in name and "tracked" not in name]
    case |= {"state_dict": shapes, "scale": scale, "params": sum(int(np.prod(shape)) for shape in counted)}
    case |= {"input": {"shape": [3, 3, 27, 38], "seed": 8}, "notes": f"Spatial branch, {mode} mode."}
    state, x = filled(shapes, scale), image((3, 3, 27, 38), 8).astype(np.float64)
    for i in (1, 2, 3):
        block = f"spatial_branch.convblock{i}."
        x = convolve(x, state[f"{block}conv1.weight"], stride=2, padding=1)
        x = batch_norm(x, state, f"{block}bn.", is_training=mode == "train")
        x = np.maximum(x, 0) if i < 3 else x
    case["outputs"] = {"spatial": sample(x)}
    for name, head in (("mask", "mask_head."), ("direction", "dir_head.")):
        hidden = batch_norm(convolve(x, state[f"{head}0.weight"]), state, f"{head}1.", is_training=mode == "train")
        case["outputs"][name] = sample(convolve(np.maximum(hidden, 0), state[f"{head}3.weight"]))
    assert problem(case) is None
    case["scale"]["convblock2.bn.weight"] = 1.0
    assert "spatial" in (problem(case) or "")


def test_position_maps_and_tables_of_other_sizes() -> None:
    case = public("unept", "sine_position") | {"channels": 12}
    maps = {f"{h}x{w}": sine(h, w, 12, 1e-6).T.reshape(1, 12, h, w) for h, w in ((1, 4), (5, 2))}
    case["outputs"] = {size: sample(values) for size, values in maps.items()}
    assert problem(case) is None

    case = public("unept", "pos_embed_resize")
    case["input"] = {"shape": [1, 11, 6], "fill_name": "other.pos_embed"}
    case["state_dict"] = {"other.pos_embed": [1, 11, 6]}
    table = fill("other.pos_embed", (1, 11, 6)).astype(np.float64)
    matrix = _bicubic(3, 5)
    grid = np.einsum("ih,jw,hwc->ijc", matrix, matrix, table[0, 2:].reshape(3, 3, 6))
    case["outputs"] = {"resized": sample(np.concatenate([table[:, :2], grid.reshape(1, 25, 6)], axis=1))}
    assert problem(case) is None


def _bicubic(size: int, new_size: int) -> Array:
    """Return the matrix of a bicubic resize (a = -0.75, no low-pass filter, edges repeated) along one axis."""
    matrix = np.zeros((new_size, size))
    for i in range(new_size):
        place = (i + 0.5) * size / new_size - 0.5
        for j in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            x = abs(place - j)
            near = 1.25 * x**3 - 2.25 * x**2 + 1
            share = near if x <= 1 else -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
            matrix[i, min(max(j, 0), size - 1)] += share
    return matrix
