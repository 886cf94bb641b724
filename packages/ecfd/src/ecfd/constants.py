"""Tensors that only sizes decide: computed once for each size and device, not in every forward pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import torch
from torch import Tensor

_KEPT = 32  # results per function: the sizes of a multi-scale test with flip, and of the training crop


def kept(compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Keep the results of a function whose arguments are hashable; never while a graph is traced.

    The results are ordinary tensors even when computed in inference mode, so that training may use them after a test.
    """
    remembered = lru_cache(maxsize=_KEPT)(compute)

    @wraps(compute)
    def call(*args: Any) -> Tensor:
        if torch.compiler.is_compiling():
            return compute(*args)
        with torch.inference_mode(False):
            return remembered(*args)

    return call
