"""Parity of deformable attention: the bare operator, and the layer around it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segcore.layers.deform_attn.layer import DeformableAttention
from tests.layers.deform_attn.cases import case_inputs
from tests.parity.case_files import Comparison, ParityCase

_OPERATOR_TOLERANCE = 3e-5  # of the standard deviation: 1e-5 of the largest value
_SEEDS = {"query": 0, "features": 1, "grad_output": 3}


def compare_operator(case: ParityCase) -> Iterator[Comparison]:
    """Yield output and gradients of the operator, by the form that is chosen for the CPU."""
    names = ("output", "grad_value", "grad_locations", "grad_weights")
    for name, value in zip(names, case_inputs(case).run("auto"), strict=True):
        yield Comparison(name, value, case.data["outputs"][name], atol=_OPERATOR_TOLERANCE)


def _draw(case: ParityCase, name: str) -> Tensor:
    shape = case.data["inputs"][name]["shape"]
    return torch.from_numpy(np.random.RandomState(_SEEDS[name]).randn(*shape).astype(np.float32))


def _reference(case: ParityCase) -> Tensor:
    given = case.data["inputs"]["reference_points"]
    return torch.from_numpy(np.random.RandomState(2).rand(*given["shape"]).astype(np.float32))


def compare_module(case: ParityCase) -> Iterator[Comparison]:
    """Yield the layer's initial values, its output, and the gradients of its inputs and parameters."""
    config: dict[str, Any] = case.data["config"]
    layer = DeformableAttention(
        config["d_model"], config["n_levels"], config["n_heads"], config["n_points"], config["ratio"]
    )
    yield Comparison("params", sum(p.numel() for p in layer.parameters()), case.data["params"], atol=0)
    initial = layer.state_dict()
    for name, summary in case.data["init"].items():
        yield Comparison(f"initial {name}", initial[name], summary)
    layer.load_state_dict(case.published_state(), strict=True)
    query, features = (_draw(case, name).requires_grad_() for name in ("query", "features"))
    sizes = [(height, width) for height, width in case.data["inputs"]["spatial_shapes"]]
    output = layer(query, _reference(case), features, sizes)
    output.backward(_draw(case, "grad_output"))
    ours = {"output": output.detach(), "grad_query": query.grad, "grad_features": features.grad}
    ours |= {f"grad_{name}": parameter.grad for name, parameter in layer.named_parameters()}
    for name, summary in case.data["outputs"].items():
        yield Comparison(name, ours[name], summary)
