"""Tensors that only sizes decide are computed once, and never outlive a trace."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segcore.layers.kept_by_size import kept_by_size


def test_a_result_is_computed_once_for_each_size() -> None:
    @kept_by_size
    def compute(length: int, *, offset: int = 0) -> Tensor:
        return torch.arange(length) + offset

    assert compute(3) is compute(3)
    assert compute(3, offset=1) is not compute(3)
    assert compute(4).tolist() == [0, 1, 2, 3]


def test_what_a_test_computed_serves_training() -> None:
    compute = kept_by_size(torch.ones)
    with torch.inference_mode():
        first = compute(2)
    assert compute(2) is first
    weight = torch.ones(2, requires_grad=True)
    (weight * first).sum().backward()  # an inference tensor could not be saved for this
    assert weight.grad is not None


def test_nothing_is_kept_or_taken_while_a_graph_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    @kept_by_size
    def compute(number: int) -> Tensor:
        calls.append(number)
        return torch.tensor(number)

    assert compute(1) is compute(1)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert compute(1) is not compute(1)
    assert calls == [1, 1, 1]
