"""Multi-scale deformable attention, without a compiler: the operator `segcore::deform_attn`.

Introduced by Deformable DETR; used by ECFD (ecfd/PAPER 3.4) and UN-EPT (unept/PAPER 3.5). Each query of each head adds
up a few bilinear samples of several feature maps; places outside a map count as zero.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segcore.errors import InputError
from segcore.layers.deform_attn import cpu as deform_attn_cpu
from segcore.layers.deform_attn import mmcv as deform_attn_mmcv
from segcore.layers.deform_attn.reference import deform_attn_reference

Backend = Literal["auto", "reference", "cpu", "triton", "mmcv"]
log = logging.getLogger(__name__)

_HAS_TRITON = importlib.util.find_spec("triton") is not None
_IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's own variable: kernels run in Python, on the CPU
_TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_announced: set[tuple[str, str, torch.dtype]] = set()


def deform_attn(
    value: Tensor,
    level_sizes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Return for each query and head the weighted sum of bilinear samples of its levels.

    A location (x, y) samples level (h, w) at the pixel (x * w - 0.5, y * h - 0.5), as `grid_sample` does with zeros
    outside and align_corners false. At a whole pixel the derivative is that towards the next pixel (right, down).
    Sums are float32 (float64 for float64 values). Differentiable once, in value, locations and weights.

    Args:
        value: rows of all levels concatenated, each level row-major; float32, float16, bfloat16 or float64.
        level_sizes: height and width of every level, pixels, as Python ints: the device is never waited for.
        locations: (x, y) in 0-1 of the level, anything outside included. Give float32: half precision rounds pixels.
        weights: factor of each sample, usually a softmax over levels and points.
        backend: "auto" takes `choose_backend`'s; another name forces it.

    Shapes:
        value (B, S, M, D), S = the sum of h * w; locations (B, Q, M, L, P, 2); weights (B, Q, M, L, P)
        -> (B, Q, M*D) in value's type, heads one after the other

    Raises:
        ValueError: for shapes that do not belong together.
        InputError: for a forced backend that cannot compute this.
    """
    _check_shapes(value, level_sizes, locations, weights)
    chosen = choose_backend(value.device.type, value.dtype, backend)
    precision = torch.float64 if value.dtype == torch.float64 else torch.float32
    locations, weights = locations.to(precision), weights.to(precision)
    if chosen == "reference":
        if not torch.compiler.is_compiling():
            _announce(chosen, value)
        return deform_attn_reference(value, level_sizes, locations, weights)
    heights, widths = [height for height, _ in level_sizes], [width for _, width in level_sizes]
    return _deform_attn(value, locations, weights, heights, widths, chosen)


def choose_backend(device: str, dtype: torch.dtype, requested: Backend = "auto") -> Backend:
    """Return the form that computes on a kind of device: "cpu", "triton", "mmcv" or "reference".

    While a network is exported "auto" gives "reference", so that the program needs neither this package nor Triton.

    Args:
        device: "cpu", "cuda", ...
        dtype: type of the value.
        requested: "auto", or the form wanted.

    Raises:
        InputError: if the form wanted cannot run there.
    """
    has_kernels = _HAS_TRITON and dtype in _TRITON_DTYPES
    if requested == "auto":
        if torch.compiler.is_exporting():
            return "reference"
        return "cpu" if device == "cpu" else "triton" if device == "cuda" and has_kernels else "reference"
    if requested == "triton" and not has_kernels:
        what = f"values of type {dtype}" if _HAS_TRITON else "this installation, which lacks the package triton"
        raise InputError(f"deformable attention: no Triton kernels for {what}; use the backend 'reference'")
    homes = {"reference": device, "cpu": "cpu", "triton": "cpu" if _IS_INTERPRETED else "cuda", "mmcv": "cuda"}
    if requested not in homes:
        raise InputError(f"deformable attention: backend must be auto, {', '.join(homes)}, not {requested!r}")
    if device not in (homes[requested], "meta"):
        raise InputError(
            f"deformable attention: the backend {requested!r} needs tensors on {homes[requested]}, got {device}; "
            "move the model there, or use the backend 'auto'"
        )
    return requested


def _check_shapes(value: Tensor, level_sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> None:
    """Raise ValueError where the shapes do not belong together."""
    if value.dim() != 4 or locations.dim() != 6 or locations.shape[-1] != 2:
        shapes = f"{tuple(value.shape)} and {tuple(locations.shape)}"
        raise ValueError(f"expected value (B, S, M, D) and locations (B, Q, M, L, P, 2), got {shapes}")
    batch, rows, heads, _ = value.shape
    if (locations.shape[0], locations.shape[2], locations.shape[3]) != (batch, heads, len(level_sizes)):
        raise ValueError(
            f"expected locations (B={batch}, Q, M={heads}, L={len(level_sizes)}, P, 2), got {tuple(locations.shape)}"
        )
    if weights.shape != locations.shape[:-1]:
        raise ValueError(f"expected weights {tuple(locations.shape[:-1])}, got {tuple(weights.shape)}")
    if not level_sizes or any(height < 1 or width < 1 for height, width in level_sizes):
        raise ValueError(f"every level needs at least one pixel, got sizes {level_sizes}")
    if sum(height * width for height, width in level_sizes) != rows:
        raise ValueError(f"levels {level_sizes} have other than the {rows} rows of value")


def _announce(backend: str, value: Tensor) -> None:
    """Say once for each kind of tensor which form computes it."""
    kind = (backend, value.device.type, value.dtype)
    if kind not in _announced:
        _announced.add(kind)
        is_slow = backend == "reference" and value.device.type not in ("cpu", "meta")
        level = logging.WARNING if is_slow else logging.DEBUG
        log.log(level, "deformable attention: %s form for %s on %s", backend, value.dtype, value.device.type)


def _kernels(backend: str) -> ModuleType:
    """Return the module whose `forward` and `backward` compute."""
    if backend == "triton":
        from segcore.layers.deform_attn import triton as deform_attn_triton

        return deform_attn_triton
    return {"cpu": deform_attn_cpu, "mmcv": deform_attn_mmcv}[backend]


_INPUTS = "Tensor value, Tensor locations, Tensor weights, SymInt[] heights, SymInt[] widths, str backend"
# not `torch.library.custom_op`: what it does around a call takes longer than the kernels, and it imports dynamo
_library = torch.library.Library("segcore", "FRAGMENT")
_library.define(f"deform_attn({_INPUTS}) -> Tensor", tags=torch.Tag.pt2_compliant_tag)
_library.define(
    f"deform_attn_backward(Tensor grad, {_INPUTS}) -> (Tensor, Tensor, Tensor)", tags=torch.Tag.pt2_compliant_tag
)
_deform_attn = torch.ops.segcore.deform_attn.default
_deform_attn_backward = torch.ops.segcore.deform_attn_backward.default


@torch.library.register_fake("segcore::deform_attn", lib=_library)
def _empty_output(value: Tensor, locations: Tensor, *unused: Any) -> Tensor:
    batch, _, heads, width = value.shape
    return value.new_empty((batch, locations.shape[1], heads * width))


@torch.library.register_fake("segcore::deform_attn_backward", lib=_library)
def _empty_gradients(
    grad: Tensor, value: Tensor, locations: Tensor, weights: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return value.new_empty(value.shape), locations.new_empty(locations.shape), weights.new_empty(weights.shape)


def _forward(
    value: Tensor, locations: Tensor, weights: Tensor, heights: Sequence[int], widths: Sequence[int], backend: str
) -> Tensor:
    _announce(backend, value)
    if weights.numel() == 0:
        return _empty_output(value, locations).zero_()
    return _kernels(backend).forward(value, locations, weights, tuple(zip(heights, widths, strict=True)))


def _backward(
    grad: Tensor,
    value: Tensor,
    locations: Tensor,
    weights: Tensor,
    heights: Sequence[int],
    widths: Sequence[int],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    if weights.numel() == 0 or value.numel() == 0:
        like_value, like_locations, like_weights = _empty_gradients(grad, value, locations, weights)
        return like_value.zero_(), like_locations.zero_(), like_weights.zero_()
    return _kernels(backend).backward(grad, value, locations, weights, tuple(zip(heights, widths, strict=True)))


class _DeformAttn(torch.autograd.Function):
    """The operator with its gradients; inside, torch sees the two operators without them."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, locations: Tensor, weights: Tensor, *constants: Any) -> Tensor:
        ctx.save_for_backward(value, locations, weights)
        ctx.constants = constants
        with torch._C._AutoDispatchBelowAutograd():  # pyright: ignore[reportAttributeAccessIssue]
            return _deform_attn(value, locations, weights, *constants)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        return (*_deform_attn_backward(grad, *ctx.saved_tensors, *ctx.constants), None, None, None)


_library.impl("deform_attn", _forward, "CompositeExplicitAutograd")
_library.impl("deform_attn_backward", _backward, "CompositeExplicitAutograd")
_library.impl("deform_attn", _DeformAttn.apply, "Autograd")
