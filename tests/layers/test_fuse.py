"""Folding of batch norms."""

from __future__ import annotations

import pytest
import timm.layers
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from segcore.backbones import create_backbone
from segcore.layers.conv import ConvNormAct
from segcore.layers.fuse import fold_into_next, fold_into_previous, fuse_norms


def _randomize(model: nn.Module) -> nn.Module:
    """Give norms statistics and weights that folding has to respect."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.2, 2, generator=generator)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
                nn.init.normal_(module.bias, generator=generator)
    return model.eval()


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1)),
        lambda: nn.Sequential(nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4, affine=False)),
        lambda: ConvNormAct(4, 6, 3),
        lambda: timm.layers.ConvNormAct(4, 6, 3, act_layer=nn.GELU),
    ],
    ids=["sequence", "depthwise without affine", "ours", "timm"],
)
def test_folding_keeps_the_function_and_removes_the_norm(build) -> None:
    torch.manual_seed(0)
    model = _randomize(build())
    x = torch.randn(2, 4, 7, 9)
    folded = fuse_norms(model)
    assert not any(isinstance(m, _BatchNorm) for m in folded.modules())
    assert any(isinstance(m, _BatchNorm) for m in model.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_norm_without_a_convolution_before_it_stays() -> None:
    model = _randomize(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)))
    x = torch.randn(1, 4, 5, 5)
    folded = fuse_norms(model)
    assert sum(isinstance(m, _BatchNorm) for m in folded.modules()) == 1
    torch.testing.assert_close(folded(x), model(x))


@pytest.mark.parametrize("bias", [True, False])
def test_folding_into_the_convolution_after_the_norm(bias: bool) -> None:
    norm = _randomize(nn.BatchNorm2d(4))
    conv = nn.Conv2d(4, 6, 1, bias=bias)
    x = torch.randn(2, 4, 5, 5)
    expected = conv(norm(x))
    assert isinstance(fold_into_next(norm, conv), nn.Identity)
    torch.testing.assert_close(conv(x), expected, rtol=1e-4, atol=1e-5)


def test_a_norm_in_training_mode_is_not_folded() -> None:
    norm, conv = nn.BatchNorm2d(4).train(), nn.Conv2d(4, 4, 1)
    weight = conv.weight.clone()
    assert fold_into_previous(conv, norm) is norm
    assert fold_into_next(norm, conv) is norm
    torch.testing.assert_close(conv.weight, weight)


@pytest.mark.parametrize(
    "name",
    [
        "efficientformerv2_s0",
        "resnet18",
        "resnet50",
        "resnest14d",
        "resnet26d",
        "hrnet_w18_small",
        "tf_efficientnet_lite0",
    ],
)
def test_backbones_lose_all_their_norms_and_keep_their_maps(name: str) -> None:
    torch.manual_seed(0)
    backbone = _randomize(create_backbone(name, pretrained=False))
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    folded = fuse_norms(backbone)
    assert not any(isinstance(m, _BatchNorm) for m in folded.modules())
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for level, expected in zip(folded(image), backbone(image), strict=True):
            torch.testing.assert_close(level, expected, rtol=1e-3, atol=1e-4 * float(expected.std()))
    assert all(torch.equal(before[key], tensor) for key, tensor in backbone.state_dict().items())


def test_a_folded_copy_shares_what_folding_leaves() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    folded = fuse_norms(model)
    assert folded[2].weight is model[2].weight
    assert folded[0].weight is not model[0].weight
    assert model.training
