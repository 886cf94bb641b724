"""Counting of parameters and multiply-adds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from segcore.commands.main import main
from segcore.layers.count import Count, count, format_count


class _Net(nn.Module):
    """One layer of every kind that the published counter knows, and one it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1)
        self.norm = nn.BatchNorm2d(8)
        self.local_norm = nn.BatchNorm2d(8)
        self.local_norm.synchronized_norm = False  # pyright: ignore[reportAttributeAccessIssue]
        self.relu = nn.ReLU()
        self.gelu = nn.GELU()
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.linear = nn.Linear(4, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.gelu(self.relu(self.local_norm(self.norm(self.conv(x))))))
        return self.linear(self.up(x).permute(0, 2, 3, 1))


def test_each_rule_of_the_published_counter() -> None:
    with torch.device("meta"):
        net = _Net()
    conv = 8 * 16 * 24 * (27 + 1)
    local_norm, relu, pool = 2 * 8 * 16 * 24, 8 * 16 * 24, 8 * 16 * 24
    up = 8 * 12 * 8 * 4 * 4 + 4 * 16 * 24  # counted at input positions
    linear = 16 * 24 * 4 * 5
    result = count(net, (32, 48))
    assert result.params == sum(p.numel() for p in net.parameters())
    assert result.macs_mmcv == conv + local_norm + relu + pool + up + linear
    assert result.macs_torch == conv - 8 * 16 * 24 + up - 4 * 16 * 24 + linear


def test_a_module_may_state_the_cost_of_the_published_form() -> None:
    class Fast(nn.Conv2d):
        def published_macs(self, output: Tensor) -> int:
            return 1000 * output.numel()

    with torch.device("meta"):
        net = Fast(3, 2, 1)
    assert count(net, (4, 4)).macs_mmcv == 1000 * 2 * 16


def test_layer_norms_count_unless_they_are_of_another_class() -> None:
    class Own(nn.LayerNorm):
        pass

    with torch.device("meta"):
        net = nn.Sequential(nn.LayerNorm(8), Own(8))
    assert count(net, (4, 8)).macs_mmcv == 2 * 3 * 4 * 8


def test_counting_leaves_mode_and_hooks_as_they_were() -> None:
    with torch.device("meta"):
        net = _Net().train()
    assert count(net, (16, 16)) == count(net, (16, 16))
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())


def test_format_uses_the_papers_units() -> None:
    line = format_count(Count(9_364_647, 3_997_480_470, 4_490_000_000))
    assert line.startswith("9.36 M parameters, 4.00 GMACs as published, 4.49 GMACs")


def test_parameters_that_alone_are_published_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["count", "r50-ade20k", "--paper", "memorynet", "--height", "64", "--width", "64"]) == 0
    assert "published: 91.41 M parameters" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["count", "toy", "--classes", "-3"], ["bench", "toy", "--height", "-5"]])
def test_negative_numbers_are_one_sentence(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--paper", "cgrseg"]) == 2
    assert f"{words[2]} must not be negative, got {words[3]}" in capsys.readouterr().err
