"""Parity of deformable attention: the bare operator, and the layer around it."""

from __future__ import annotations

from collections.abc import Iterator

from segcore.layers.deform_attn.layer import DeformableAttention
from tests.layers.deform_attn.cases import case_inputs
from tests.parity.building import count, drawn
from tests.parity.case_files import Comparison, ParityCase

_OPERATOR_TOLERANCE = 3e-5  # of the standard deviation: 1e-5 of the largest value


def compare_operator(case: ParityCase) -> Iterator[Comparison]:
    """Yield output and gradients of the operator, by the form that is chosen for the CPU."""
    names = ("output", "grad_value", "grad_locations", "grad_weights")
    for name, value in zip(names, case_inputs(case).run("auto"), strict=True):
        yield Comparison(name, value, case.data["outputs"][name], atol=_OPERATOR_TOLERANCE)


def compare_module(case: ParityCase) -> Iterator[Comparison]:
    """Yield the layer's initial values, its output, and the gradients of its inputs and parameters."""
    config, inputs, outputs = (case.data[key] for key in ("config", "inputs", "outputs"))
    layer = DeformableAttention(
        config["d_model"], config["n_levels"], config["n_heads"], config["n_points"], config["ratio"]
    )
    yield Comparison("params", count(layer), case.data["params"], atol=0)
    initial, published = layer.state_dict(), case.data["init"]
    for name in published:
        yield Comparison(f"initial {name}", initial[name], published[name])
    layer.load_state_dict(case.published_state(), strict=True)
    query, features = (drawn(inputs[name]).requires_grad_() for name in ("query", "features"))
    sizes = [(height, width) for height, width in inputs["spatial_shapes"]]
    output = layer(query, drawn(inputs["reference_points"]), features, sizes)
    output.backward(drawn(inputs["grad_output"]))
    ours = {"output": output.detach(), "grad_query": query.grad, "grad_features": features.grad}
    ours |= {f"grad_{name}": parameter.grad for name, parameter in layer.named_parameters()}
    for name in outputs:
        yield Comparison(name, ours[name], outputs[name])
