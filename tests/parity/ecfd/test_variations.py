"""ECFD's adapter on cases with other values than the public ones; expected values in NumPy, by ecfd/PAPER 3.4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.parity.case_files import ParityCase
from tests.parity.ecfd import networks
from tests.parity.fill import sample
from tests.parity.varied import (
    Array,
    deform,
    deform_attention,
    deform_gradients,
    filled,
    problem,
    public,
    softmax,
)

_NAMES = ("output", "grad_value", "grad_locations", "grad_weights")


def _randn(seed: int, *shape: int) -> Array:
    return np.random.RandomState(seed).randn(*shape).astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("is_whole", [True, False])
def test_the_operator_is_drawn_as_its_recipe_says(is_whole: bool) -> None:
    case, sizes = public("ecfd", "msda_exact_integers" if is_whole else "msda_d10_l4_p8"), [[4, 2], [1, 8], [2, 2]]
    batch, queries, heads, width, points = 2, 5, 3, 4, 2
    rows, shape = sum(height * width for height, width in sizes), (batch, queries, heads, len(sizes), points)
    inputs: dict[str, Any] = case["inputs"]
    inputs |= {"N": batch, "Q": queries, "M": heads, "D": width, "P": points, "spatial_shapes": sizes}
    for seed in range(4):
        inputs["recipe"] = inputs["recipe"].replace(f"({seed})", f"({20 + seed})")
    inputs["recipe"] = inputs["recipe"].replace("randint(0,9", "randint(1,6")
    value, grad = _randn(20, batch, rows, heads, width), _randn(23, batch, queries, heads * width)
    extent = np.array(sizes)[:, None, ::-1]
    if is_whole:
        locations = (np.minimum(np.random.RandomState(21).randint(1, 6, (*shape, 2)), extent) + 0.5) / extent
    else:
        inputs["location_range"] = [-0.5, 1.1]
        locations = -0.5 + 1.6 * np.random.RandomState(21).rand(*shape, 2)
    locations = locations.astype(np.float32).astype(np.float64)
    weights = softmax(np.random.RandomState(22).randn(batch, queries, heads, len(sizes) * points), -1).reshape(shape)
    output = deform(value, sizes, locations, weights)
    gradients = deform_gradients(value, sizes, locations, weights, grad)
    case["outputs"] = {name: sample(ours) for name, ours in zip(_NAMES, (output, *gradients), strict=True)}
    assert problem(case) is None
    inputs["recipe"] = inputs["recipe"].replace("(22)", "(2)")
    assert "output" in (problem(case) or "")


def test_the_layer_takes_other_widths_heads_points_levels_and_ratios() -> None:
    case, sizes, rows = public("ecfd", "msda_module_box"), [[3, 2], [1, 5], [2, 2]], 15
    width, heads, points, ratio = 18, 3, 5, 0.5
    samples, values = heads * len(sizes) * points, int(width * ratio)
    case["config"] = {"d_model": width, "n_levels": len(sizes), "n_heads": heads, "n_points": points, "ratio": ratio}
    widths = {"sampling_offsets": [2 * samples, width], "attention_weights": [samples, width]}
    widths |= {"value_proj": [values, width], "output_proj": [width, values]}
    shapes = {f"{name}.weight": shape for name, shape in widths.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in widths.items()}
    case |= {"state_dict": shapes, "scale": {"attention_weights.weight": 3.0}, "init": {}}
    case["params"] = sum(int(np.prod(shape)) for shape in shapes.values())
    given = {"query": ([3, 7, width], 10), "features": ([3, rows, width], 11), "grad_output": ([3, 7, width], 13)}
    inputs: dict[str, Any] = {"spatial_shapes": sizes}
    inputs["reference_points"] = {"shape": [3, 7, 1, 2], "recipe": "RandomState(12).rand -> float32; (x, y)"}
    for name, (shape, seed) in given.items():
        inputs[name] = {"shape": shape, "recipe": f"RandomState({seed}).randn -> float32"}
    case["inputs"] = inputs
    query, features = _randn(10, 3, 7, width), _randn(11, 3, rows, width)
    reference = np.random.RandomState(12).rand(3, 7, 1, 2)
    state = filled(shapes, case["scale"])
    output = deform_attention(query, reference, features, sizes, state, heads)
    bias = _randn(13, 3, 7, width).sum(axis=(0, 1))  # the gradient of output_proj.bias
    case["outputs"] = {"output": sample(output), "grad_output_proj.bias": sample(bias)}
    assert problem(case) is None
    inputs["query"]["recipe"] = "RandomState(11).randn -> float32"
    assert "output" in (problem(case) or "")


@pytest.mark.parametrize("name", ["head_ecfd", "head_ecfdspatial", "head_ecfdgeneralfpn", "head_ecfdpatch4"])
def test_everything_that_a_head_says_is_in_its_options(name: str) -> None:
    case = public("ecfd", name)
    config = {"embed_dim": 40, "channels": 12, "n_points": 7, "L": 5, "CICM_num_heads": 5, "SICM_num_heads": 5}
    config |= {"SICM_mlp_ratio": 0.75, "deform_ratio": 2.0, "patch_size": 8, "pretrain_img_size": [80, 64]}
    case["config"] |= config
    options = networks.options_of(ParityCase.create(Path(name), case))
    assert (options.embed_dim, options.channels, options.points, options.depth, options.heads) == (40, 12, 7, 5, 5)
    assert (options.mlp_ratio, options.value_ratio, options.position_grid) == (0.75, 2.0, (10, 8))
    case["config"] |= {"SICM_num_heads": 4}
    with pytest.raises(ValueError, match="SICM_num_heads"):
        networks.options_of(ParityCase.create(Path(name), case))


@pytest.mark.parametrize(
    ("given", "name", "stride"),
    [
        ({"type": "ResNetV1c", "depth": 101, "dilations": [1, 1, 2, 4], "strides": [1, 2, 1, 1]}, "resnet101c", 8),
        ({"type": "ConvNeXt", "depths": [3, 3, 9, 3], "dims": [96, 192, 384, 768]}, "convnext_tiny", None),
        ({"type": "SwinTransformer", "embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32],
          "window_size": 12}, "swin_base_patch4_window12_384", None),
    ],
)  # fmt: skip
def test_a_backbone_is_read_from_its_settings(given: dict[str, Any], name: str, stride: int | None) -> None:
    found = networks.backbone_of(given)
    assert (found["backbone"], found.get("output_stride")) == (name, stride)
