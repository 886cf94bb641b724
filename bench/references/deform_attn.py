"""The deformable attention of Deformable DETR, whose operator is for CUDA, in the plain form published beside it."""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor

from references import stand_in

NOTE = "The published deformable operator is for CUDA only: here it is the form in plain torch from the same file."


def stand_in_for_operator() -> None:
    """Let the compiled operator be imported."""
    stand_in(["MultiScaleDeformableAttention"])


def use_plain_form(module: str) -> None:
    """Let a checkout's `ms_deform_attn_func` compute by its own `ms_deform_attn_core_pytorch`."""
    functions = importlib.import_module(module)

    def apply(value: Tensor, shapes: Tensor, _start: Tensor, locations: Tensor, weights: Tensor, _step: int) -> Any:
        return functions.ms_deform_attn_core_pytorch(value, shapes, locations, weights)

    functions.MSDeformAttnFunction.apply = staticmethod(apply)
