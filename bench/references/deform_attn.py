"""The deformable attention of Deformable DETR: its operator is for CUDA; a plain form is published beside it."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from torch import Tensor

from references import Places, stand_in

_OPERATOR = "MultiScaleDeformableAttention"
_PLAIN = "The published deformable operator is for CUDA only: here it is the form in plain torch from the same file."
_COMPILED = "The published deformable operator is compiled from its CUDA sources."


def is_compiled(places: Places) -> bool:
    """Return whether the operator can run: it was built from the checkout's sources and installed."""
    return places.device == "cuda" and importlib.util.find_spec(_OPERATOR) is not None


def stand_in_for_operator(places: Places) -> None:
    """Let the compiled operator be imported where it is not there."""
    if not is_compiled(places):
        stand_in([_OPERATOR])


def use_operator(places: Places, module: str) -> str:
    """Let a checkout's `ms_deform_attn_func` compute; returns a note: where not compiled, by its plain form."""
    if is_compiled(places):
        return _COMPILED
    functions = importlib.import_module(module)

    def apply(value: Tensor, shapes: Tensor, _start: Tensor, locations: Tensor, weights: Tensor, _step: int) -> Any:
        return functions.ms_deform_attn_core_pytorch(value, shapes, locations, weights)

    functions.MSDeformAttnFunction.apply = staticmethod(apply)
    return _PLAIN
