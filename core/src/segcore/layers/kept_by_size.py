"""Tensors that follow from a parameter and a size, computed once in evaluation."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn


class KeptBySize(nn.Module):
    """A module whose value for a map's size depends on one parameter alone.

    In evaluation without gradients the last value is kept until the size or the parameter changes, or moves to another
    device or precision. What is kept stays out of copies and pickles.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: tuple[tuple[Any, ...], Tensor] | None = None

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
        place = (source._version, source.data_ptr(), source.device, source.dtype)
        key = (height, width, *place, torch.is_inference_mode_enabled())
        if self._kept is None or self._kept[0] != key:
            self._kept = (key, self.compute(height, width))
        return self._kept[1]

    def train(self, mode: bool = True) -> Self:
        """Switch the mode and forget what was kept."""
        self._kept = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        """Leave what was kept out of copies and pickles."""
        return {**self.__dict__, "_kept": None}
