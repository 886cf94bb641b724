"""ResNeSt: its levels, and what the published shortcut changes in timm's network."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from segcore.backbones import create_backbone
from segcore.backbones.resnest import ResNeSt
from segcore.backbones.resnet_names import RENAMES
from segcore.errors import InputError
from segcore.weights.names import NameMap

_NAME = "resnest14d"


def _image(height: int, width: int) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def _pair(output_stride: int) -> tuple[ResNeSt, nn.Module]:
    """Return our backbone and timm's features with the same weights, in evaluation mode."""
    torch.manual_seed(0)
    ours = create_backbone(_NAME, pretrained=False, output_stride=output_stride).eval()
    assert isinstance(ours, ResNeSt)
    theirs = timm.create_model(_NAME, features_only=True, out_indices=(1, 2, 3, 4), output_stride=output_stride).eval()
    theirs.load_state_dict(ours.model.state_dict())
    return ours, theirs


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("size", [(64, 96), (57, 83)])
def test_levels_have_the_promised_channels_and_strides_at_any_size(output_stride: int, size: tuple[int, int]) -> None:
    backbone = create_backbone(_NAME, pretrained=False, output_stride=output_stride).eval()
    assert backbone.legal_size(*size) == size
    assert backbone.strides == tuple(min(stride, output_stride) for stride in (4, 8, 16, 32))
    assert backbone.channels == (256, 512, 1024, 2048)
    with torch.no_grad():
        levels = backbone(_image(*size))
    for level, channels, stride in zip(levels, backbone.channels, backbone.strides, strict=True):
        assert tuple(level.shape[1:]) == (channels, -(-size[0] // stride), -(-size[1] // stride))


def test_without_dilation_it_is_the_network_of_timm() -> None:
    ours, theirs = _pair(32)
    image = _image(64, 96)
    with torch.no_grad():
        for level, expected in zip(ours(image), theirs(image), strict=True):
            torch.testing.assert_close(level, expected, rtol=0, atol=0)


def test_a_dilated_shortcut_does_not_pool() -> None:
    ours, theirs = _pair(8)
    image = _image(64, 96)
    with torch.no_grad():
        levels, others = ours(image), theirs(image)
        torch.testing.assert_close(levels[1], others[1], rtol=0, atol=0)
        for level, other in zip(levels[2:], others[2:], strict=True):
            assert float((level - other).abs().mean() / other.std()) > 0.01
        for stage in ("layer3", "layer4"):
            theirs.get_submodule(stage)[0].downsample[0] = nn.Identity()  # pyright: ignore[reportIndexIssue, reportArgumentType]
        for level, other in zip(levels, theirs(image), strict=True):
            torch.testing.assert_close(level, other, rtol=0, atol=0)


def test_the_first_block_of_a_dilated_stage_has_half_the_dilation() -> None:
    with torch.device("meta"):
        model = create_backbone("resnest26d", pretrained=False, output_stride=8).get_submodule("model")
    dilations = {
        name: module.dilation[0]
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and name.endswith("conv2.conv")
    }
    assert dilations == {
        **{f"layer{stage}.{block}.conv2.conv": 1 for stage in (1, 2) for block in (0, 1)},
        "layer3.0.conv2.conv": 1,
        "layer3.1.conv2.conv": 2,
        "layer4.0.conv2.conv": 2,
        "layer4.1.conv2.conv": 4,
    }


def test_a_weights_file_of_timm_fills_every_tensor(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = timm.create_model(_NAME, pretrained=False).state_dict()
    file = tmp_path / "resnest.pth"
    torch.save(state, file)
    loaded = create_backbone(_NAME, weights=str(file), output_stride=8).state_dict()
    assert len(loaded) == len(state) - 2  # without fc
    for name, tensor in loaded.items():
        torch.testing.assert_close(tensor, state[name.removeprefix("model.")], rtol=0, atol=0, msg=name)
    with pytest.raises(InputError, match="does not fit resnest26d"):
        create_backbone("resnest26d", weights=str(file))


def test_published_names_count_the_stem_as_one_list() -> None:
    with torch.device("meta"):
        backbone = create_backbone(_NAME, pretrained=False)
    names = {NameMap(RENAMES).to_published(name) for name in backbone.state_dict()}
    assert len(names) == len(backbone.state_dict())
    assert {name for name in names if name.startswith("stem.") and name.endswith(".weight")} == {
        f"stem.{i}.weight" for i in (0, 1, 3, 4, 6, 7)
    }
    assert {"layer1.0.conv2.fc1.bias", "layer2.0.downsample.2.weight"} <= names
    assert {name.split(".")[0] for name in names} == {"stem", "layer1", "layer2", "layer3", "layer4"}
