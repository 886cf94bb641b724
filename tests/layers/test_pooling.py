"""Adaptive pooling as two matrix products equals torch's."""

from __future__ import annotations

import pytest
import torch

from segcore.layers.pooling import adaptive_mean


@pytest.mark.parametrize(("size", "cells"), [((15, 20), (8, 10)), ((7, 9), (4, 5)), ((6, 6), (6, 6)), ((5, 3), (6, 1))])
def test_exported_means_are_torchs(
    size: tuple[int, int], cells: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = adaptive_mean(x, cells)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(adaptive_mean(x, cells), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(expected, torch.nn.functional.adaptive_avg_pool2d(x, cells), rtol=0, atol=0)
