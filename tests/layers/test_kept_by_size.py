"""Tensors that only sizes decide are computed once, and never outlive a trace."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from segcore.layers import kept_by_size as kept
from segcore.layers.kept_by_size import KeptBySize, kept_by_size


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


class Ramp(KeptBySize):
    """Counts how often it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.computed = 0

    @property
    def source(self) -> Tensor:
        return self.scale

    def compute(self, height: int, width: int) -> Tensor:
        self.computed += 1
        return self.scale * torch.ones(height, width)


@torch.no_grad()
def test_the_sizes_of_a_test_take_turns_without_being_computed_again() -> None:
    ramp = Ramp().eval()
    for _ in range(3):
        for size in ((2, 3), (3, 2), (4, 4)):
            assert ramp(*size).shape == size
    assert ramp.computed == 3
    ramp.scale.add_(1)
    assert ramp(2, 3).unique().tolist() == [2]
    assert ramp(3, 2).unique().tolist() == [2]


@torch.no_grad()
def test_what_is_kept_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "KEPT_BYTES", 4 * 100)
    ramp = Ramp().eval()
    for size in ((6, 10), (5, 10), (2, 5)):  # 120 values in all: room for twice the largest
        ramp(*size)
    assert list(ramp._kept) == [(6, 10), (5, 10), (2, 5)]
    ramp(1, 1)
    assert list(ramp._kept) == [(5, 10), (2, 5), (1, 1)]  # the oldest went first
    ramp(20, 10)
    assert list(ramp._kept) == [(5, 10), (2, 5), (1, 1), (20, 10)]
    ramp(1, 2)
    ramp(20, 20)
    ramp(30, 30)
    ramp(1, 900)
    assert list(ramp._kept) == [(30, 30), (1, 900)]


@torch.no_grad()
def test_the_position_biases_of_all_published_scales_are_kept() -> None:
    ramp = Ramp().eval()
    for _ in range(2):
        for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75):
            tokens = round(ratio**2 * 22 * 64)  # 512x704, where a bias of one head has 8 MB, stride 16
            ramp(tokens, tokens)
    assert ramp.computed == 6
    assert sum(value.nbytes for value in ramp._kept.values()) > kept.KEPT_BYTES
