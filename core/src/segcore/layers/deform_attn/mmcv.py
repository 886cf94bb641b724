"""Multi-scale deformable attention by the operator of a full mmcv that the user compiled.

Nothing here needs mmcv. Where a full one is installed, the backend "mmcv" calls its extension; mmcv-lite, which
the extra `segcore[mmcv]` brings, has no compiled operators.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

import torch
from torch import Tensor

from segcore.errors import InputError
from segcore.layers.kept_by_size import kept_by_size

Sizes = tuple[tuple[int, int], ...]


def forward(value: Tensor, locations: Tensor, weights: Tensor, level_sizes: Sizes) -> Tensor:
    """Return the sums; see `segcore.layers.deform_attn.op.deform_attn`.

    Raises:
        InputError: if the installed mmcv has no compiled operators.
    """
    inputs = _inputs(value, locations, weights, level_sizes)
    return _extension().ms_deform_attn_forward(*inputs, im2col_step=len(value)).to(value.dtype)


def backward(
    grad: Tensor, value: Tensor, locations: Tensor, weights: Tensor, level_sizes: Sizes
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of value, locations and weights.

    Raises:
        InputError: if the installed mmcv has no compiled operators.
    """
    inputs = _inputs(value, locations, weights, level_sizes)
    wide_grad = grad.to(locations.dtype).contiguous()
    gradients = torch.zeros_like(inputs[0]), torch.zeros_like(inputs[3]), torch.zeros_like(inputs[4])
    _extension().ms_deform_attn_backward(*inputs, wide_grad, *gradients, im2col_step=len(value))
    return gradients[0].to(value.dtype), gradients[1], gradients[2]


def _inputs(value: Tensor, locations: Tensor, weights: Tensor, level_sizes: Sizes) -> tuple[Tensor, ...]:
    """Return value, level sizes, first rows, locations and weights as the extension takes them."""
    extents, first_rows = _level_tensors(level_sizes, value.device)
    wide = value.to(locations.dtype)
    return wide.contiguous(), extents, first_rows, locations.contiguous(), weights.contiguous()


@kept_by_size
def _level_tensors(level_sizes: Sizes, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return sizes (L, 2) as (h, w), and first rows (L,), on the device; kept, because copying waits for the device."""
    extents = torch.tensor(level_sizes, dtype=torch.int64)
    areas = extents.prod(dim=1)
    return extents.to(device), (areas.cumsum(0) - areas).to(device)


def _extension() -> ModuleType:
    """Return the compiled part of mmcv."""
    if importlib.util.find_spec("mmcv._ext") is None:
        raise InputError(
            "deformable attention: the backend 'mmcv' needs mmcv with compiled operators, which is not installed; "
            "install a full mmcv (mmcv-lite has none), or use the backend 'auto'"
        )
    return importlib.import_module("mmcv._ext")
