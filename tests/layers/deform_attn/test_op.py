"""Multi-scale deformable attention: values and gradients, whatever the sizes, and which form computes them."""

from __future__ import annotations

import itertools
import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segcore.errors import InputError
from segcore.layers.deform_attn import cpu as deform_attn_cpu
from segcore.layers.deform_attn import op as module
from segcore.layers.deform_attn.op import Backend, choose_backend, deform_attn
from tests.layers.deform_attn.cases import Inputs, Sizes, random_inputs

SIZES = ((3, 5), (4, 2), (1, 1))


def scalar_loop(inputs: Inputs) -> tuple[np.ndarray, ...]:
    """Return output and gradients by the definition (ecfd/PAPER 3.4), one number at a time."""
    assert inputs.grad is not None
    value, locations, weights, grad = (
        tensor.double().numpy() for tensor in (inputs.value, inputs.locations, inputs.weights, inputs.grad)
    )
    batch, queries, heads, _, points = weights.shape
    width = value.shape[-1]
    output, grad = np.zeros((batch, queries, heads, width)), grad.reshape(batch, queries, heads, width)
    grad_value, grad_locations, grad_weights = np.zeros_like(value), np.zeros_like(locations), np.zeros_like(weights)
    starts = np.cumsum([0] + [h * w for h, w in inputs.sizes])
    for b, q, m, (level, (h, w)), p in itertools.product(
        range(batch), range(queries), range(heads), enumerate(inputs.sizes), range(points)
    ):
        x, y = locations[b, q, m, level, p, 0] * w - 0.5, locations[b, q, m, level, p, 1] * h - 0.5
        if not (-1 < x < w and -1 < y < h):
            continue
        place, factor = (b, q, m, level, p), weights[b, q, m, level, p]
        left, top = math.floor(x), math.floor(y)
        for dx, dy in itertools.product((0, 1), (0, 1)):
            if not (0 <= left + dx < w and 0 <= top + dy < h):
                continue
            row = starts[level] + (top + dy) * w + left + dx
            along_x, along_y = 1 - abs(x - left - dx), 1 - abs(y - top - dy)
            output[b, q, m] += factor * along_x * along_y * value[b, row, m]
            grad_value[b, row, m] += factor * along_x * along_y * grad[b, q, m]
            product = value[b, row, m] @ grad[b, q, m]
            grad_weights[place] += along_x * along_y * product
            slopes = np.array([w * along_y * (2 * dx - 1), h * along_x * (2 * dy - 1)])
            grad_locations[place] += factor * product * slopes
    return output.reshape(batch, queries, -1), grad_value, grad_locations, grad_weights


@st.composite
def awkward_inputs(draw: st.DrawFn) -> Inputs:
    """Return inputs of any size, with samples on whole pixels, at the border, far away and at infinity."""
    side = st.integers(1, 5)
    sizes: Sizes = tuple(draw(st.lists(st.tuples(side, side), min_size=1, max_size=3)))
    small = st.integers(1, 3)
    inputs = random_inputs(
        sizes,
        batch=draw(small),
        queries=draw(small),
        heads=draw(small),
        width=draw(st.integers(1, 5)),
        points=draw(small),
        dtype=torch.float64,
        seed=draw(st.integers(0, 1000)),
    )
    special = st.sampled_from(["whole", "far", "infinite", "any"])
    for place in np.ndindex(*inputs.locations.shape):
        kind, size = draw(special), sizes[place[3]][1 - place[5]]
        if kind == "whole":
            inputs.locations[place] = (draw(st.integers(-2, size + 1)) + 0.5) / size
        elif kind != "any":
            distance = 1e30 if kind == "far" else math.inf
            inputs.locations[place] = distance if draw(st.booleans()) else -distance
    return inputs


@settings(max_examples=40, deadline=None, derandomize=True)
@given(awkward_inputs())
def test_values_and_gradients_are_those_of_a_scalar_loop(inputs: Inputs) -> None:
    for result, expected in zip(inputs.run("cpu"), scalar_loop(inputs), strict=True):
        np.testing.assert_allclose(result.numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("width", [16, 24, 32, 100, 128])
def test_both_forms_agree_for_any_head_width(width: int) -> None:
    inputs = random_inputs(SIZES, width=width)
    for result, expected in zip(inputs.run("cpu"), inputs.run("reference"), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


def test_queries_computed_in_several_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = random_inputs(SIZES, queries=11)
    together = inputs.run("cpu")
    monkeypatch.setattr(deform_attn_cpu, "_SAMPLES_AT_ONCE", 4 * inputs.weights[0, 0].numel())  # 4, 4 and 3 queries
    for result, expected in zip(inputs.run("cpu"), together, strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_gradients_are_the_numerical_ones(backend: Backend) -> None:
    inputs = random_inputs(SIZES, queries=3, heads=2, width=2, dtype=torch.float64)
    leaves = [tensor.requires_grad_() for tensor in (inputs.value, inputs.locations, inputs.weights)]

    def attend(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return deform_attn(value, SIZES, locations, weights, backend=backend)

    assert torch.autograd.gradcheck(attend, leaves, fast_mode=True)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("counts", [{"queries": 0}, {"batch": 0}])
def test_nothing_asked_is_nothing_computed(backend: Backend, counts: dict[str, int]) -> None:
    inputs = random_inputs(SIZES, **counts)
    output, *gradients = inputs.run(backend)
    assert output.shape == (*inputs.weights.shape[:2], 48)
    for gradient, like in zip(gradients, (inputs.value, inputs.locations, inputs.weights), strict=True):
        assert gradient.shape == like.shape
        assert not gradient.any()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_values_are_added_up_in_float32(dtype: torch.dtype, backend: Backend) -> None:
    inputs = random_inputs(SIZES, dtype=dtype)
    wide = inputs.to(torch.float32)
    results, expected = inputs.run(backend), wide.run(backend)
    assert [result.dtype for result in results] == [dtype, dtype, torch.float32, torch.float32]
    for result, exact in zip(results, expected, strict=True):
        torch.testing.assert_close(result, exact.to(result.dtype))


def test_tensors_in_any_memory_order_give_the_same() -> None:
    inputs = random_inputs(SIZES)
    strided = inputs._replace(
        value=inputs.value.transpose(1, 2).contiguous().transpose(1, 2),
        locations=inputs.locations.transpose(1, 2).contiguous().transpose(1, 2),
        weights=inputs.weights.transpose(3, 4).contiguous().transpose(3, 4),
    )
    assert not strided.value.is_contiguous()
    with torch.no_grad():
        result = deform_attn(strided.value, SIZES, strided.locations, strided.weights)
    torch.testing.assert_close(result, inputs.run("reference")[0])


def test_a_location_that_is_not_a_number_reaches_only_its_query() -> None:
    inputs = random_inputs(SIZES)
    inputs.locations[1, 3, 2, 0, 1, 0] = math.nan
    is_nan = inputs.run("cpu")[0].isnan().view(2, 7, 3, 16)
    assert is_nan[1, 3, 2].all()
    assert is_nan.sum() == 16


def test_the_form_is_announced_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_announced", set())
    inputs = random_inputs(SIZES)
    with caplog.at_level(logging.DEBUG, logger="segcore.layers.deform_attn.op"):
        for backend in ("auto", "cpu", "reference", "reference"):
            deform_attn(inputs.value, SIZES, inputs.locations, inputs.weights, backend=backend)
    assert [record.levelno for record in caplog.records] == [logging.DEBUG, logging.DEBUG]
    assert [record.message.split()[2] for record in caplog.records] == ["cpu", "reference"]


def test_a_gpu_without_kernels_is_mentioned_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_announced", set())
    for kind in ("mps", "mps", "cuda", "meta", "cpu"):
        value = SimpleNamespace(device=torch.device(kind), dtype=torch.float32)
        module._announce("reference", value)  # pyright: ignore[reportArgumentType]
    assert caplog.messages == [
        f"deformable attention: reference form for torch.float32 on {kind}" for kind in ("mps", "cuda")
    ]


@pytest.mark.parametrize(
    ("device", "dtype", "has_triton", "expected"),
    [
        ("cpu", torch.float32, True, "cpu"),
        ("cpu", torch.bfloat16, False, "cpu"),
        ("cuda", torch.bfloat16, True, "triton"),
        ("cuda", torch.float16, True, "triton"),
        ("cuda", torch.float64, True, "reference"),
        ("cuda", torch.float32, False, "reference"),
        ("mps", torch.float32, True, "reference"),
        ("meta", torch.float32, True, "reference"),
    ],
)
def test_device_and_type_choose_the_form(
    device: str, dtype: torch.dtype, has_triton: bool, expected: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HAS_TRITON", has_triton)
    assert choose_backend(device, dtype) == expected
    assert choose_backend(device, dtype, "reference") == "reference"


@pytest.mark.parametrize(
    ("device", "dtype", "requested", "sentence"),
    [
        ("cpu", torch.float32, "triton", "'triton' needs tensors on cuda, got cpu"),
        ("cpu", torch.float32, "mmcv", "'mmcv' needs tensors on cuda, got cpu"),
        ("cuda", torch.float32, "cpu", "'cpu' needs tensors on cpu, got cuda"),
        ("cuda", torch.float64, "triton", r"no Triton kernels for values of type torch\.float64"),
        ("cpu", torch.float32, "fast", "backend must be auto, reference, cpu, triton, mmcv, not 'fast'"),
    ],
)
def test_a_forced_form_that_cannot_run_is_one_sentence(
    device: str, dtype: torch.dtype, requested: Backend, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HAS_TRITON", True)
    monkeypatch.setattr(module, "_IS_INTERPRETED", False)
    with pytest.raises(InputError, match=sentence):
        choose_backend(device, dtype, requested)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"value": torch.zeros(2, 24, 48)}, r"expected value \(B, S, M, D\)"),
        ({"locations": torch.zeros(2, 7, 3, 2, 2, 2)}, r"expected locations \(B=2, Q, M=3, L=3, P, 2\)"),
        ({"weights": torch.zeros(2, 7, 3, 3, 1)}, r"expected weights \(2, 7, 3, 3, 2\)"),
        ({"sizes": ((3, 5), (4, 2), (2, 1))}, "have other than the 24 rows of value"),
        ({"sizes": ((3, 5), (9, 1), (0, 1))}, "every level needs at least one pixel"),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(change: dict, sentence: str) -> None:
    inputs = random_inputs(SIZES)._replace(**change)
    with pytest.raises(ValueError, match=sentence):
        deform_attn(inputs.value, inputs.sizes, inputs.locations, inputs.weights)
