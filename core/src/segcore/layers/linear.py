"""Linear layers on CPUs through oneDNN.

torch multiplies float32 matrices with MKL, which does not use the wide registers of processors other than Intel's;
oneDNN, in torch anyway, does. Measured on an AMD EPYC with AVX-512, one thread, torch 2.15, for nine shapes of 512 to
16384 rows and 96 to 2048 channels: 1.5 to 2.4 times as fast forward, 1.7 to 2.3 times for the input's gradient, 1.5 to
1.9 times for the weight's. Where MKL uses those registers, on Intel's processors, expect nothing: not measured. The
result is float32 all the same, and differs by rounding only.

The operator is torch's own, but not part of its public interface: where it is not what it was, layers are torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

_SMALLEST_PRODUCT = 2**21  # multiply-adds below which the call costs more than it saves
_SMALLEST_SIDES = (64, 192)  # of a weight, the shorter and the longer one, for its gradient
_ARGUMENTS = ("X", "W", "B", "attr", "scalars", "algorithm")  # of the operator, torch 2.8 to 2.15


def use_onednn(model: nn.Module) -> None:
    """Let every linear layer of a network compute through oneDNN where it can, in place; names and weights stay.

    Layers of a class of their own are left alone. What tells layers by `type(layer) is nn.Linear`, as
    `torch.ao.quantization.quantize_dynamic` does, overlooks those changed here.
    """
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear


class OneDnnLinear(nn.Linear):
    """A linear layer that takes oneDNN for float32 on a CPU; elsewhere, under autocast and in graphs, it is torch's."""

    def forward(self, input: Tensor) -> Tensor:
        is_recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        if is_recorded or not (are_for_onednn(input, self.weight) and _is_large(input, self.weight) and has_onednn()):
            return F.linear(input, self.weight, self.bias)
        if torch.is_grad_enabled():
            return _Linear.apply(input, self.weight, self.bias)  # pyright: ignore[reportReturnType]
        return _product(input, self.weight, self.bias)


@cache
def has_onednn(operator: str = "_linear_pointwise", arguments: tuple[str, ...] = _ARGUMENTS) -> bool:
    """Tell whether this build of torch has an operator of oneDNN with the arguments it is called with here."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, operator):
        return False
    schema = getattr(torch.ops.mkldnn, operator).default._schema
    return tuple(argument.name for argument in schema.arguments) == arguments


def are_for_onednn(x: Tensor, weight: Tensor) -> bool:
    """Tell whether both are float32 on a CPU, and oneDNN may be used; tensors of other classes are not for it."""
    is_exact = type(x) is Tensor and type(weight) in (Tensor, nn.Parameter)
    if not (is_exact and x.dtype == weight.dtype == torch.float32):
        return False
    is_on_cpu = x.device.type == weight.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return is_on_cpu and bool(torch.backends.mkldnn.enabled)


def _is_large(x: Tensor, weight: Tensor) -> bool:
    return x.dim() > 1 and x.numel() * weight.shape[0] >= _SMALLEST_PRODUCT


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x weight^T + bias: (..., K), (N, K), (N,) -> (..., N)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # what torch.compile calls, too


class _Linear(torch.autograd.Function):
    """The product with its gradients, for `torch.func` and second derivatives, too."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _product(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        grad = grads[0]
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        # oneDNN's operator has no derivative: a gradient that will be derived again is torch's
        product = F.linear if torch.is_grad_enabled() else _product
        rows, inputs = grad.flatten(0, -2), x.flatten(0, -2)
        grad_x = product(grad, weight.t().contiguous()) if needs_x else None
        grad_weight = _weight_gradient(rows, inputs, product) if needs_weight else None
        return grad_x, grad_weight, rows.sum(dim=0) if needs_bias else None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = tangents
        terms = [F.linear(of_x, weight)] if of_x is not None else []
        if of_weight is not None:
            terms.append(F.linear(x, of_weight))
        if of_bias is not None:
            terms.append(of_bias.expand(*x.shape[:-1], -1))
        return sum(terms[1:], terms[0])


def _weight_gradient(rows: Tensor, inputs: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return rows^T inputs: (R, N), (R, K) -> (N, K)."""
    short, long = sorted((rows.shape[1], inputs.shape[1]))
    if short < _SMALLEST_SIDES[0] or long < _SMALLEST_SIDES[1]:
        return rows.t() @ inputs
    # the wider matrix as the operator's weight: 1.5 to 2.5 times as fast as the other order
    return product(rows.t(), inputs.t()) if rows.shape[1] <= inputs.shape[1] else product(inputs.t(), rows.t()).t()


def _count_flops(x_shape: Sequence[int], weight_shape: Sequence[int], *_: Any, **__: Any) -> int:
    """Operations of a product as torch's counter counts them, two for a multiply-add."""
    rows = torch.Size(x_shape[:-1]).numel()
    return 2 * rows * weight_shape[0] * weight_shape[1]


if has_onednn():
    register_flop_formula(torch.ops.mkldnn._linear_pointwise)(_count_flops)
