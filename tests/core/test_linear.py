"""Linear layers through oneDNN against torch's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from segcore.ops import linear
from segcore.ops.linear import OneDnnLinear, use_onednn


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The weights' shapes of all products through oneDNN."""
    seen: list[tuple[int, ...]] = []
    product = linear._product

    def watched(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        seen.append(tuple(weight.shape))
        return product(x, weight, bias)

    monkeypatch.setattr(linear, "_product", watched)
    return seen


def _pair(inputs: int, outputs: int, *, bias: bool = True) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    plain = nn.Linear(inputs, outputs, bias=bias)
    fast = copy.deepcopy(plain)
    use_onednn(fast)
    assert type(fast) is OneDnnLinear
    return plain, fast


@pytest.mark.parametrize(("inputs", "outputs", "bias"), [(96, 384, True), (384, 96, False), (24, 96, True)])
def test_values_and_gradients_are_torchs(calls: list[tuple[int, ...]], inputs: int, outputs: int, bias: bool) -> None:
    plain, fast = _pair(inputs, outputs, bias=bias)
    x = torch.randn(2, 40, 50, inputs, generator=torch.Generator().manual_seed(1))
    weight = torch.randn(2, 40, 50, outputs, generator=torch.Generator().manual_seed(2))
    results = []
    for layer in (plain, fast):
        own = x.clone().requires_grad_()
        y = layer(own)
        results.append((y, *torch.autograd.grad((y * weight).sum(), (own, *layer.parameters()))))
    for ours, theirs in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.detach().std()) * inputs**0.5)
    assert len(calls) == (3 if min(inputs, outputs) >= 64 else 2)


def test_without_gradients_nothing_is_kept(calls: list[tuple[int, ...]]) -> None:
    plain, fast = _pair(128, 128)
    x = torch.randn(3, 2000, 128).transpose(0, 1)  # not contiguous
    with torch.no_grad():
        y = fast(x)
        torch.testing.assert_close(y, plain(x), rtol=1e-4, atol=1e-5)
    assert y.grad_fn is None
    assert calls == [(128, 128)]


def test_small_products_double_precision_and_autocast_are_torchs_own(calls: list[tuple[int, ...]]) -> None:
    plain, fast = _pair(64, 64)
    large = torch.randn(4000, 64)
    torch.testing.assert_close(fast(large[:4]), plain(large[:4]), rtol=0, atol=0)
    torch.testing.assert_close(fast.double()(large.double()), plain.double()(large.double()), rtol=0, atol=0)
    plain, fast = _pair(64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fast(large).dtype == torch.bfloat16
    assert calls == []


def test_only_plain_linear_layers_change_and_their_names_stay() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(4, 4, 1), nn.modules.linear.NonDynamicallyQuantizableLinear(4, 4))
    names = list(model.state_dict())
    use_onednn(model)
    assert [type(module) for module in model][:2] == [OneDnnLinear, nn.Conv2d]
    assert type(model[2]) is nn.modules.linear.NonDynamicallyQuantizableLinear
    assert list(model.state_dict()) == names


def test_a_traced_layer_is_torchs_linear(calls: list[tuple[int, ...]]) -> None:
    _, fast = _pair(64, 64)
    program = torch.export.export(fast, (torch.randn(4000, 64),))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets == ["aten.linear.default"]
    assert calls == []
