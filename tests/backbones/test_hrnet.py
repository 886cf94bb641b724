"""HRNet: its branches, bilinear fusion at any size, and the stem of the published models."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcore.backbones import create_backbone
from segcore.backbones.hrnet import FusedBranches, HRNet
from segcore.backbones.timm_names import RENAMES
from segcore.errors import InputError
from segcore.weights.names import NameMap

_NAME = "hrnet_w18_small"


def _image(height: int, width: int) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def _ours(stem_relu: bool = True) -> HRNet:
    torch.manual_seed(0)
    backbone = create_backbone(_NAME, pretrained=False, stem_relu=stem_relu).eval()
    assert isinstance(backbone, HRNet)
    return backbone


def _theirs(ours: HRNet) -> nn.Module:
    """Return timm's branches with the weights of ours, in evaluation mode."""
    theirs = timm.create_model(_NAME, features_only=True, feature_location="", out_indices=(1, 2, 3, 4)).eval()
    theirs.load_state_dict(ours.model.state_dict())
    return theirs


@pytest.mark.parametrize("size", [(64, 96), (33, 47), (50, 70)])
def test_branches_have_the_promised_channels_and_strides_at_any_size(size: tuple[int, int]) -> None:
    backbone = _ours()
    assert backbone.legal_size(*size) == size
    assert backbone.strides == (4, 8, 16, 32)
    with torch.no_grad():
        levels = backbone(_image(*size))
    for level, channels, stride in zip(levels, (16, 32, 64, 128), (4, 8, 16, 32), strict=True):
        assert tuple(level.shape[1:]) == (channels, -(-size[0] // stride), -(-size[1] // stride))
    assert backbone.channels == (16, 32, 64, 128)


def test_it_is_the_network_of_timm_with_bilinear_upsampling() -> None:
    ours = _ours()
    theirs = _theirs(ours)
    image = _image(64, 96)
    with torch.no_grad():
        levels, nearest = ours(image), theirs(image)
        assert float((levels[0] - nearest[0]).abs().mean() / nearest[0].std()) > 0.01
        for layer in theirs.modules():
            if isinstance(layer, nn.Upsample):
                layer.mode, layer.align_corners = "bilinear", False
        for level, other in zip(levels, theirs(image), strict=True):
            torch.testing.assert_close(level, other, rtol=0, atol=0)


def test_without_the_relu_of_the_stem_negative_values_reach_the_second_convolution() -> None:
    ours, published = _ours(), _ours(stem_relu=False)
    assert ours.state_dict().keys() == published.state_dict().keys()
    image = _image(64, 64)
    seen: list[Tensor] = []
    for backbone in (ours, published):
        backbone.model.conv2.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].clone()))
        with torch.no_grad():
            backbone(image)
    assert float(seen[1].min()) < 0
    torch.testing.assert_close(seen[0], seen[1].relu(), rtol=0, atol=0)


def test_coarse_branches_are_enlarged_by_their_power_of_two_and_then_to_the_exact_size() -> None:
    """Two resizes in that order, as memorynet/PAPER 2 asks: one resize alone gives other numbers."""
    torch.manual_seed(0)
    fuse = next(module for module in _ours().modules() if isinstance(module, FusedBranches))
    fuse.branches = nn.ModuleList(nn.Identity() for _ in fuse.branches)
    levels = [torch.randn(1, 16, 9, 11), torch.randn(1, 32, 5, 6)]
    with torch.no_grad():
        paths = fuse.fuse_layers[0][1]  # pyright: ignore[reportIndexIssue]
        coarse = paths[1](paths[0](levels[1]))
        twice = F.interpolate(F.interpolate(coarse, size=(10, 12), mode="bilinear"), size=(9, 11), mode="bilinear")
        once = F.interpolate(coarse, size=(9, 11), mode="bilinear")
        fine, _ = fuse(levels)
    torch.testing.assert_close(fine, (levels[0] + twice).relu())
    assert float((fine - (levels[0] + once).relu()).abs().max()) > 1e-3


def test_gradients_reach_every_parameter() -> None:
    backbone = _ours().train()
    torch.stack([level.square().mean() for level in backbone(_image(50, 70).repeat(2, 1, 1, 1))]).sum().backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []


def test_a_weights_file_of_timm_fills_every_tensor(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = timm.create_model(_NAME, pretrained=False).state_dict()
    file = tmp_path / "hrnet.pth"
    torch.save(state, file)
    loaded = create_backbone(_NAME, weights=str(file), stem_relu=False).state_dict()
    for name, tensor in loaded.items():
        torch.testing.assert_close(tensor, state[name.removeprefix("model.")], rtol=0, atol=0, msg=name)
    with pytest.raises(InputError, match="does not fit hrnet_w18"):
        create_backbone("hrnet_w18", weights=str(file))


def test_published_names_are_those_of_timm() -> None:
    with torch.device("meta"):
        backbone = create_backbone("hrnet_w48", pretrained=False)
    assert backbone.channels == (48, 96, 192, 384)
    assert sum(backbone.channels) == 720
    names = {NameMap(RENAMES).to_published(f"backbone.{name}") for name in backbone.state_dict()}
    parts = {"conv1", "bn1", "conv2", "bn2", "layer1", *(f"stage{i}" for i in (2, 3, 4))}
    assert {name.split(".")[1] for name in names} == parts | {f"transition{i}" for i in (1, 2, 3)}
    assert "backbone.stage4.2.fuse_layers.0.3.1.running_var" in names
