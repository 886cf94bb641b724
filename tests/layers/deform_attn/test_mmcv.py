"""The backend of a compiled mmcv, with a stand-in for its extension: the real one needs CUDA and a compiler."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segcore.errors import InputError
from segcore.layers.deform_attn import mmcv as deform_attn_mmcv
from segcore.layers.deform_attn.reference import deform_attn_reference
from tests.layers.deform_attn.cases import Sizes, random_inputs

SIZES = ((3, 4), (2, 2))


class StandIn:
    """The two functions of mmcv._ext, with their signatures and their demands on the tensors."""

    def ms_deform_attn_forward(self, *tensors: Tensor, im2col_step: int) -> Tensor:
        value, sizes, locations, weights = _checked(tensors, im2col_step)
        return deform_attn_reference(value, sizes, locations, weights)

    def ms_deform_attn_backward(self, *tensors: Tensor, im2col_step: int) -> None:
        value, sizes, locations, weights = _checked(tensors[:5], im2col_step)
        grad, outputs = tensors[5], tensors[6:]
        leaves = [tensor.detach().requires_grad_() for tensor in (value, locations, weights)]
        with torch.enable_grad():
            output = deform_attn_reference(leaves[0], sizes, leaves[1], leaves[2])
        for target, result in zip(outputs, torch.autograd.grad(output, leaves, grad), strict=True):
            target.add_(result)


def _checked(tensors: tuple[Tensor, ...], im2col_step: int) -> tuple[Tensor, Sizes, Tensor, Tensor]:
    value, extents, first_rows, locations, weights = tensors
    assert all(tensor.is_contiguous() for tensor in tensors)
    assert {value.dtype, locations.dtype, weights.dtype} == {torch.float32}
    assert len(value) % im2col_step == 0
    assert extents.dtype == first_rows.dtype == torch.int64
    assert first_rows.tolist() == [0, 12]
    return value, tuple((height, width) for height, width in extents.tolist()), locations, weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_extension_gets_what_it_demands_and_its_results_come_back(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deform_attn_mmcv, "_extension", StandIn)
    inputs = random_inputs(SIZES, dtype=dtype)
    arguments = (inputs.value, inputs.locations, inputs.weights, inputs.sizes)
    assert inputs.grad is not None
    results = deform_attn_mmcv.forward(*arguments), *deform_attn_mmcv.backward(inputs.grad, *arguments)
    for result, expected in zip(results, inputs.run("reference"), strict=True):
        torch.testing.assert_close(result, expected)


def test_mmcv_without_compiled_operators_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deform_attn_mmcv.importlib.util, "find_spec", lambda _: None)
    inputs = random_inputs(SIZES)
    with pytest.raises(InputError, match="needs mmcv with compiled operators"):
        deform_attn_mmcv.forward(inputs.value, inputs.locations, inputs.weights, inputs.sizes)
