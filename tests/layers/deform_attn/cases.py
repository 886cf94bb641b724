"""Inputs of deformable attention: those of the parity cases of ECFD and UN-EPT, and random ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from segcore.layers.deform_attn.op import Backend, deform_attn
from tests.parity.case_files import DEFAULT_DIRECTORY, Comparison, ParityCase
from tests.parity.fill import image
from tests.parity.formulas import uniform

_PATHS = {path.stem: path for path in sorted((DEFAULT_DIRECTORY / "ecfd").glob("msda_*.json"))}
_PATHS["unept_msda_op"] = DEFAULT_DIRECTORY / "unept" / "msda_op.json"
CASES = {n: ParityCase.create(path, json.loads(path.read_text())) for n, path in _PATHS.items() if "module" not in n}
Sizes = tuple[tuple[int, int], ...]


class Inputs(NamedTuple):
    """What the operator takes, and the gradient of its output (None: that of the sum of squares)."""

    value: Tensor  # (B, S, M, D)
    sizes: Sizes
    locations: Tensor  # (B, Q, M, L, P, 2)
    weights: Tensor  # (B, Q, M, L, P)
    grad: Tensor | None  # (B, Q, M*D)

    def to(self, dtype: torch.dtype, device: str = "cpu") -> Inputs:
        """Return copies of another type."""
        value, locations, weights = (tensor.to(device, dtype) for tensor in (self.value, self.locations, self.weights))
        return Inputs(value, self.sizes, locations, weights, None if self.grad is None else self.grad.to(device, dtype))

    def run(self, backend: Backend) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the output, and the gradients of value, locations and weights."""
        leaves = [tensor.detach().clone().requires_grad_() for tensor in (self.value, self.locations, self.weights)]
        output = deform_attn(leaves[0], self.sizes, leaves[1], leaves[2], backend=backend)
        grad = 2 * output.detach() if self.grad is None else self.grad
        grad_value, grad_locations, grad_weights = torch.autograd.grad(output, leaves, grad)
        return output.detach(), grad_value, grad_locations, grad_weights


def softmax(scores: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis, computed in float64."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def case_inputs(case: ParityCase) -> Inputs:
    """Return the float32 inputs that a case describes."""
    return _unept(case) if case.paper == "unept" else _ecfd(case)


def _ecfd(case: ParityCase) -> Inputs:
    inputs = case.data["inputs"]
    batch, queries, heads, width, points = (inputs[key] for key in ("N", "Q", "M", "D", "P"))
    sizes: Sizes = tuple((height, width) for height, width in inputs["spatial_shapes"])
    # in words, in this order: value, locations, weights, gradient
    random = [np.random.RandomState(int(seed)) for seed in re.findall(r"RandomState\((\d+)\)", inputs["recipe"])]
    shape = (batch, queries, heads, len(sizes), points)
    value = random[0].randn(batch, sum(h * w for h, w in sizes), heads, width)
    if pixels := re.search(r"randint\((\d+),\s*(\d+)", inputs["recipe"]):  # whole pixels, none beyond the end
        extent = np.array(sizes)[:, None, ::-1]  # (L, 1, 2), (w, h)
        places = np.minimum(random[1].randint(int(pixels[1]), int(pixels[2]), (*shape, 2)), extent)
        locations = (places + 0.5) / extent
    else:
        low, high = inputs["location_range"]
        locations = low + (high - low) * random[1].rand(*shape, 2)
    weights = softmax(random[2].randn(*shape[:3], len(sizes) * points)).reshape(shape)
    grad = random[3].randn(batch, queries, heads * width)
    tensors = [torch.from_numpy(np.asarray(array, np.float32)) for array in (value, locations, weights, grad)]
    return Inputs(tensors[0], sizes, tensors[1], tensors[2], tensors[3])


def _unept(case: ParityCase) -> Inputs:
    sizes: Sizes = tuple((height, width) for height, width in case.data["level_sizes"])
    value, scores = (case.data["input"][name] for name in ("value", "weights_before_softmax"))
    batch, queries, heads, samples = scores["shape"]
    shape = (batch, queries, heads, len(sizes), samples // len(sizes))
    locations = torch.from_numpy(_locations(case, shape, value["seed"]))
    weights = torch.from_numpy(image(scores["shape"], scores["seed"])).softmax(-1).view(shape)
    return Inputs(torch.from_numpy(image(value["shape"], value["seed"])), sizes, locations, weights, None)


def _locations(case: ParityCase, shape: tuple[int, ...], value_seed: int) -> np.ndarray:
    """Return the places of UN-EPT's operator case, (B, Q, M, L, P, 2) float32: uniform numbers under a rule.

    `input.locations` gives shape, seed and rule; where it does not, they follow from the other inputs, the seed is that
    of the value plus one, and the range is the public case's.
    """
    given = case.data["input"].get("locations", {})
    if "shape" in given and tuple(given["shape"]) != (*shape, 2):
        raise ValueError(f"locations of shape {given['shape']} for weights of {shape}")
    seed = given["seed"] if given.get("seed") is not None else value_seed + 1
    rule = given.get("rule", "RandomState(seed).rand(*shape) * 1.6 - 0.3")
    return uniform(rule, (*shape, 2), seed).astype(np.float32)


def compare(case: ParityCase, dtype: torch.dtype, backend: Backend, device: str, tolerance: float) -> Iterator[str]:
    """Yield for every published output of a case how ours differs, if it does."""
    results = case_inputs(case).to(dtype, device).run(backend)
    names = ("output", "grad_value", "grad_locations", "grad_weights")
    assert set(case.data["outputs"]) == set(names)
    for name, result in zip(names, results, strict=True):
        difference = Comparison(name, result, case.data["outputs"][name], atol=tolerance).difference()
        if difference is not None:
            yield f"{case.name}, {name}: {difference}"


def random_inputs(
    sizes: Sizes,
    *,
    batch: int = 2,
    queries: int = 7,
    heads: int = 3,
    width: int = 16,
    points: int = 2,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Inputs:
    """Return Gaussian values and gradients, and locations around the maps; locations and weights at least float32."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, queries, heads, len(sizes), points)
    wide = torch.promote_types(dtype, torch.float32)
    value = torch.randn(batch, sum(h * w for h, w in sizes), heads, width, generator=generator, dtype=wide)
    locations = torch.rand(*shape, 2, generator=generator, dtype=wide) * 1.8 - 0.4
    weights = torch.randn(*shape[:3], len(sizes) * points, generator=generator, dtype=wide).softmax(-1).view(shape)
    grad = torch.randn(batch, queries, heads * width, generator=generator, dtype=wide)
    return Inputs(value.to(dtype), sizes, locations, weights, grad.to(dtype))
