"""Activation checkpointing: the same gradients, the same statistics, fewer activations."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from segcore.backbones import create_backbone
from segcore.errors import InputError
from segcore.layers.recompute import recompute_blocks


def _step(backbone: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], int]:
    """Return gradients, buffers and the number of bytes that autograd keeps, of one step in float64."""
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    kept = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    torch.manual_seed(2)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = torch.stack([level.square().mean() for level in backbone(image)]).sum()
    loss.backward()
    gradients = {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}
    return gradients, dict(backbone.named_buffers()), kept


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"drop_path_rate": 0.3}),
        ("tf_efficientnet_lite0", {"drop_path_rate": 0.3}),
        ("efficientformerv2_s0", {"drop_path_rate": 0.3}),
        ("swin_tiny_patch4_window7_224", {"drop_path_rate": 0.3}),
        ("convnext_atto", {"drop_path_rate": 0.3}),
        ("vit_tiny_patch16_224", {}),
    ],
)
def test_gradients_and_statistics_are_bit_equal(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    plain = create_backbone(name, pretrained=False, **options).double().train()
    again = copy.deepcopy(plain)
    recompute_blocks(again)
    (expected, buffers, whole), (found, moved, kept) = _step(plain), _step(again)
    assert expected.keys() == found.keys()
    for key, gradient in expected.items():
        assert torch.equal(found[key], gradient), key
    for key, value in buffers.items():
        assert torch.equal(moved[key], value), key
    assert kept < whole / 2


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(InputError, match=r"--run\.recompute needs a backbone that is built of blocks"):
        recompute_blocks(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
