"""1x1 convolutions through oneDNN: the same numbers, and only where they are meant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from segcore.layers.fuse import fuse_norms
from segcore.layers.pointwise import PointwiseConv, use_onednn_pointwise


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def changed(layer: nn.Module) -> nn.Module:
    use_onednn_pointwise(layer)
    return layer


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_those_of_torch(memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 96, 1)
    x = torch.randn(2, 64, 24, 20).contiguous(memory_format=memory_format).requires_grad_()
    expected = layer(x)
    wanted = torch.autograd.grad(expected.square().sum(), (x, *layer.parameters()))
    with torch.profiler.profile() as profile:
        found = changed(layer)(x)
    assert any("mkldnn" in event.key for event in profile.key_averages())
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(found.square().sum(), (x, *layer.parameters()))
    torch.testing.assert_close(gradients, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("groups", [1, 96])
@pytest.mark.parametrize("side", [8, 24])
def test_nothing_runs_in_torchs_slow_forms(side: int, groups: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(96, 192, 1, groups=groups)
    x = torch.randn(1, 96, side, side)
    expected = layer(x)
    with torch.profiler.profile() as profile:
        found = changed(layer)(x)
    names = {event.key for event in profile.key_averages()}
    assert "aten::slow_conv_dilated2d" not in names  # torch's form of what is dilated and small
    assert ("aten::mkldnn_convolution" in names) == (side == 24)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["kernel_size", "stride", "padding"])
def test_other_convolutions_are_left_alone(name: str) -> None:
    options: dict[str, Any] = {"kernel_size": 1, name: 2}
    assert type(changed(nn.Conv2d(8, 8, **options))) is nn.Conv2d


def test_norms_fold_into_them() -> None:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(64, 96, 1), nn.BatchNorm2d(96)).eval()
    nn.init.uniform_(block[1].weight)  # pyright: ignore[reportArgumentType]
    x = torch.randn(1, 64, 16, 16)
    expected = block(x)
    folded = fuse_norms(changed(block))
    assert [type(module) for module in folded.children()] == [PointwiseConv, nn.Identity]
    torch.testing.assert_close(folded(x), expected)
