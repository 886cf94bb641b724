"""Linear layers through oneDNN against torch's."""

from __future__ import annotations

import copy
import pickle
import types
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from segcore.layers import linear
from segcore.layers.linear import OneDnnLinear, use_onednn


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


@pytest.fixture
def fresh_probe() -> Iterator[None]:
    """What torch offers is asked anew, before the test and after it."""
    linear.has_onednn.cache_clear()
    yield
    linear.has_onednn.cache_clear()


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


def test_torchs_own_linear_takes_over_where_the_operator_is_another(
    calls: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch, fresh_probe: None
) -> None:
    assert linear.has_onednn()
    linear.has_onednn.cache_clear()
    changed = types.SimpleNamespace(_schema=torch._C.parse_schema("mkldnn::_linear_pointwise(Tensor X) -> Tensor"))
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", types.SimpleNamespace(default=changed))
    plain, fast = _pair(64, 64)
    x = torch.randn(4000, 64)
    torch.testing.assert_close(fast(x), plain(x), rtol=0, atol=0)
    assert calls == []


def test_onednn_that_is_switched_off_is_not_called(calls: list[tuple[int, ...]]) -> None:
    plain, fast = _pair(64, 64)
    x = torch.randn(4000, 64)
    with torch.backends.mkldnn.flags(enabled=False):
        torch.testing.assert_close(fast(x), plain(x), rtol=0, atol=0)
    assert calls == []
    fast(x)
    assert calls == [(64, 64)]


class _Subclass(Tensor):
    pass


@pytest.mark.parametrize("x", [torch.ones(2048), torch.ones(4000, 2048).as_subclass(_Subclass)])
def test_vectors_and_tensors_of_other_classes_are_torchs_own(calls: list[tuple[int, ...]], x: Tensor) -> None:
    plain, fast = _pair(2048, 2048)
    torch.testing.assert_close(fast(x), plain(x), rtol=0, atol=0)
    assert type(fast(x)) is type(x)
    assert calls == []


def _gradient_penalty(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    return torch.autograd.grad(gradient.square().sum(), (x, *layer.parameters()), allow_unused=True)


def _functional_gradient(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    def total(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(layer, parameters, (x,)).square().sum()

    return tuple(torch.func.grad(total)(dict(layer.named_parameters())).values())


def _directional_derivative(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    parameters = dict(layer.named_parameters())

    def call(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(layer, parameters, (x,))

    return torch.func.jvp(call, (parameters, x), (parameters, x.flip(0)))


@pytest.mark.parametrize("derive", [_gradient_penalty, _functional_gradient, _directional_derivative])
def test_every_way_of_deriving_gives_torchs_result(
    calls: list[tuple[int, ...]], derive: Callable[[nn.Module, Tensor], tuple[Tensor | None, ...]]
) -> None:
    plain, fast = _pair(96, 64)
    x = torch.randn(1000, 96, generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(derive(fast, x), derive(plain, x), strict=True):
        if theirs is None:
            assert ours is None or not ours.any()
        else:
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.detach().std()))
    assert calls[0] == (64, 96)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "record",
    [fx.symbolic_trace, partial(torch.jit.trace, example_inputs=(torch.ones(4000, 64),), check_trace=False)],
    ids=["fx", "jit"],
)
def test_other_tracers_see_torchs_linear_for_every_size(
    calls: list[tuple[int, ...]], record: Callable[[nn.Module], nn.Module]
) -> None:
    plain, fast = _pair(64, 64)
    x = torch.randn(5000, 64)
    torch.testing.assert_close(record(fast)(x), plain(x), rtol=0, atol=0)
    assert calls == []


def test_copies_and_pickles_compute_the_same() -> None:
    _, fast = _pair(64, 64)
    x = torch.randn(4000, 64)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert type(other) is OneDnnLinear
        torch.testing.assert_close(other(x), fast(x), rtol=0, atol=0)


def test_torchs_counter_sees_the_same_operations_forward_and_backward() -> None:
    counts = []
    for layer in _pair(96, 64):
        with FlopCounterMode(display=False) as counter:
            layer(torch.ones(1000, 96, requires_grad=True)).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts == [3 * 2 * 1000 * 96 * 64] * 2
