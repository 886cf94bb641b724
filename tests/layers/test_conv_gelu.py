"""Convolutions with their GELU through oneDNN: the same numbers, and only where they are meant."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from timm.layers.activations import GELU
from timm.layers.conv_bn_act import ConvNormAct
from torch import Tensor, nn

from segcore.layers.conv_gelu import ConvGelu, absorb_gelu
from segcore.layers.fuse import fuse_norms

GEOMETRIES: tuple[dict[str, Any], ...] = (
    {"kernel_size": 1},
    {"kernel_size": 3, "padding": 1, "groups": 32},
    {"kernel_size": (1, 5), "padding": (0, 2), "stride": 2},
    {"kernel_size": 3, "padding": 2, "dilation": 2, "bias": False},
)
OPERATOR = "mkldnn::_convolution_pointwise"


def operators(layer: nn.Module, x: Tensor) -> list[str]:
    """Return the names of what runs when a layer is called."""
    with torch.profiler.profile() as profile:
        layer(x)
    return [event.key for event in profile.key_averages()]


@torch.no_grad()
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_values_and_memory_format_are_those_of_both_layers(
    geometry: dict[str, Any], memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 64, **geometry).to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]
    x = torch.randn(2, 32, 19, 14).contiguous(memory_format=memory_format)
    expected = nn.functional.gelu(conv(x))
    assert isinstance(absorb_gelu(conv, GELU()), nn.Identity)
    assert OPERATOR in operators(conv, x)
    torch.testing.assert_close(conv(x), expected)
    assert conv(x).is_contiguous(memory_format=memory_format)


def test_with_gradients_autocast_and_graphs_it_is_torchs_own() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 8, 3)
    conv, x = copy.deepcopy(plain), torch.randn(1, 8, 9, 9)
    absorb_gelu(conv, nn.GELU())
    wanted = torch.autograd.grad(nn.functional.gelu(plain(x)).square().sum(), tuple(plain.parameters()))
    torch.testing.assert_close(torch.autograd.grad(conv(x).square().sum(), tuple(conv.parameters())), wanted)
    with torch.no_grad(), torch.autocast("cpu"):
        assert conv(x).dtype == torch.bfloat16
    with torch.no_grad():
        program = torch.export.export(conv, (x,))
        assert OPERATOR not in operators(conv.double(), x.double())
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets == ["aten.conv2d.default", "aten.gelu.default"]


@pytest.mark.parametrize("activation", [nn.GELU("tanh"), nn.ReLU(), nn.Identity()], ids=str)
def test_other_activations_stay(activation: nn.Module) -> None:
    conv = nn.Conv2d(8, 8, 1)
    assert absorb_gelu(conv, activation) is activation
    assert type(conv) is nn.Conv2d


@pytest.mark.parametrize("options", [{"padding": "same"}, {"padding": 1, "padding_mode": "circular"}], ids=str)
def test_other_paddings_stay(options: dict[str, Any]) -> None:
    activation = GELU()
    assert absorb_gelu(nn.Conv2d(8, 8, 3, **options), activation) is activation


@torch.no_grad()
def test_folding_leaves_one_layer_of_three() -> None:
    torch.manual_seed(0)
    block = ConvNormAct(16, 24, 3, act_layer=GELU).eval()
    nn.init.uniform_(block.get_parameter("bn.weight"))
    x = torch.randn(1, 16, 12, 12)
    expected = block(x)
    folded = fuse_norms(block)
    assert type(folded.conv) is ConvGelu
    assert isinstance(folded.bn, nn.Identity)
    torch.testing.assert_close(folded(x), expected)
    assert type(block.conv) is nn.Conv2d  # the network that trains on is as it was
