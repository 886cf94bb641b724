"""ResNets: dilation, and the tensor names of OpenMMLab."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from segcore.backbones import create_backbone
from segcore.backbones.resnet_names import OPENMMLAB
from segcore.errors import InputError


def _image(height: int, width: int) -> torch.Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("output_stride", "strides"), [(8, (4, 8, 8, 8)), (16, (4, 8, 16, 16)), (32, (4, 8, 16, 32))])
@pytest.mark.parametrize("size", [(64, 96), (61, 83)])
def test_levels_keep_the_output_stride(output_stride: int, strides: tuple[int, ...], size: tuple[int, int]) -> None:
    backbone = create_backbone("resnet26", pretrained=False, output_stride=output_stride).eval()
    assert backbone.strides == strides
    assert backbone.legal_size(*size) == size
    with torch.no_grad():
        levels = backbone(_image(*size))
    for level, channels, stride in zip(levels, backbone.channels, strides, strict=True):
        assert tuple(level.shape) == (1, channels, -(-size[0] // stride), -(-size[1] // stride))


def test_the_first_block_of_a_dilated_stage_has_half_its_dilation() -> None:
    with torch.device("meta"):
        backbone = create_backbone("resnet50c", pretrained=False, output_stride=8)
    convolutions = {name: module for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d)}
    dilations = [[convolutions[f"model.layer{s}.{b}.conv2"].dilation[0] for b in range(3)] for s in (1, 2, 3, 4)]
    assert dilations == [[1, 1, 1], [1, 1, 1], [1, 2, 2], [2, 4, 4]]


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_file_with_openmmlab_names_loads_whole(prefix: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = create_backbone("resnet50c", pretrained=False)
    published = OPENMMLAB.export(source)
    stem = sorted({name.split(".")[1] for name in published if name.startswith("stem.")})
    assert stem == ["0", "1", "3", "4", "6", "7"]
    assert {"layer1.0.downsample.1.running_var", "layer4.2.conv3.weight"} < set(published)
    file = tmp_path / "resnet50_v1c.pth"
    published |= {"fc.weight": torch.zeros(10, 2048), "fc.bias": torch.zeros(10)}
    torch.save({"state_dict": {prefix + name: tensor for name, tensor in published.items()}}, file)
    loaded = create_backbone("resnet50c", weights=str(file), output_stride=8).state_dict()
    for name, tensor in source.state_dict().items():
        torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0, msg=name)


def test_a_file_with_openmmlab_names_of_another_depth_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "deeper.pth"
    with torch.device("meta"):
        deeper = create_backbone("resnet101c", pretrained=False)
    torch.save({name: torch.zeros(tensor.shape) for name, tensor in OPENMMLAB.export(deeper).items()}, file)
    with pytest.raises(InputError, match=r"deeper\.pth does not fit resnet50c: \d+ unexpected \(layer3\.6\."):
        create_backbone("resnet50c", weights=str(file))


def test_a_file_with_the_names_of_timm_still_loads(tmp_path: Path) -> None:
    file = tmp_path / "timm.pth"
    state = timm.create_model("resnet50c", pretrained=False).state_dict()
    torch.save(state, file)
    loaded = create_backbone("resnet50c", weights=str(file)).state_dict()
    for name, tensor in loaded.items():
        torch.testing.assert_close(tensor, state[name.removeprefix("model.")], rtol=0, atol=0, msg=name)


def test_published_names_are_the_same_with_and_without_the_segmentor_around() -> None:
    names = [f"model.{name}" for name in ("conv1.0.weight", "conv1.6.weight", "bn1.bias", "layer2.0.bn1.weight")]
    assert [OPENMMLAB.to_published(f"backbone.{name}") for name in names] == [
        f"backbone.{OPENMMLAB.to_published(name)}" for name in names
    ]
    assert OPENMMLAB.to_published("head.model.conv1.0.weight") == "head.model.conv1.0.weight"


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "densenet121", "vit_tiny_patch16_224"])
def test_a_model_without_dilated_form_refuses_an_output_stride(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} has no form with output stride 8; .*--model\.output-stride 32"):
        create_backbone(name, pretrained=False, output_stride=8)
    with torch.device("meta"):
        assert create_backbone(name, pretrained=False, output_stride=32).strides == (4, 8, 16, 32)
