"""Tensors computed once for each size: those that only sizes decide, and those that follow from a parameter, too."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache, wraps
from typing import Any, ParamSpec, Self, TypeVar

import torch
from torch import Tensor, nn

KEPT_BYTES = 32 << 20
"""What one module keeps in any case."""
KEPT_VALUES = 2
"""What it keeps otherwise, in values as large as its largest: biases of attention grow with the fourth power of a
scale, and at the six scales of the published tests, 0.5 to 1.75, all together take 1.95 times the largest."""
_MOST = 64  # results of one function: the maps of a network at every scale of a test
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_used: ContextVar[list[Any] | None] = ContextVar("_used", default=None)


@contextmanager
def tables_used() -> Iterator[list[Any]]:
    """Collect what is handed out within the block: a recorded CUDA graph reads it for as long as it lives."""
    tables: list[Any] = []
    token = _used.set(tables)
    try:
        yield tables
    finally:
        _used.reset(token)


def _note_use(table: Any) -> None:
    tables = _used.get()
    if tables is not None:
        tables.append(table)


def kept_by_size(compute: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Keep the last results of a function of sizes, devices and precisions, which must all be hashable.

    Inside a compiled or exported graph nothing is kept or taken: a tensor of a trace must not outlive it. What is kept
    are ordinary tensors even when computed in inference mode, so that training may use them after a test.
    """
    remembered = lru_cache(maxsize=_MOST)(compute)

    @wraps(compute)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        if torch.compiler.is_compiling():
            return compute(*args, **kwargs)
        with torch.inference_mode(False):
            result = remembered(*args, **kwargs)
        _note_use(result)
        return result

    return call


class KeptBySize(nn.Module):
    """A module whose value for a map's size depends on one parameter alone.

    In evaluation without gradients the values of the last sizes are kept, as the scales of a test take turns, until the
    parameter changes, or moves to another device or precision. What is kept stays out of copies and pickles.
    """

    def __init__(self) -> None:
        super().__init__()
        self._of: tuple[Any, ...] = ()  # the state of the parameter that the kept values follow from
        self._kept: dict[tuple[int, int], Tensor] = {}  # the least recently used first

    @property
    @abstractmethod
    def source(self) -> Tensor:
        """The parameter that the value depends on."""

    @abstractmethod
    def compute(self, height: int, width: int) -> Tensor:
        """Return the value for a map of this size."""

    def forward(self, height: int, width: int) -> Tensor:
        """Return the value for a map of this size, kept where that is possible."""
        source = self.source
        is_differentiated = torch.is_grad_enabled() and source.requires_grad
        if self.training or is_differentiated or torch.compiler.is_compiling() or source.is_inference():
            return self.compute(height, width)
        of = (source._version, source.data_ptr(), source.device, source.dtype, torch.is_inference_mode_enabled())
        if self._of != of:
            self._of, self._kept = of, {}
        value = self._kept.pop((height, width), None)
        self._kept[height, width] = value = self.compute(height, width) if value is None else value
        self._drop_oldest()
        _note_use(value)
        return value

    def _drop_oldest(self) -> None:
        """Keep to the limits."""
        while len(self._kept) > 1:
            sizes = [kept.nbytes for kept in self._kept.values()]
            if sum(sizes) <= max(KEPT_BYTES, KEPT_VALUES * max(sizes)):
                break
            del self._kept[next(iter(self._kept))]

    def train(self, mode: bool = True) -> Self:
        """Switch the mode and forget what was kept."""
        self._kept = {}
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        """Leave what was kept out of copies and pickles."""
        return {**self.__dict__, "_kept": {}}
