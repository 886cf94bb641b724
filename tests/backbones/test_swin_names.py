"""Swin's weights: timm's, Microsoft's and OpenMMLab's names, their order of merged channels, other windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcore.backbones import create_backbone
from segcore.backbones.swin_names import MICROSOFT, OPENMMLAB, TIMM
from segcore.backbones.swin_weights import imagenet_map, resize_table
from segcore.errors import InputError
from segcore.weights.names import NameMap

_NAME = "swin_tiny_patch4_window7_224"
_SMALL: dict[str, Any] = {"embed_dim": 16, "depths": (2, 1, 2, 1), "num_heads": (1, 2, 2, 4)}
_MAPS = {"timm": TIMM, "microsoft": MICROSOFT, "openmmlab": OPENMMLAB}


def _backbone(seed: int = 1, **changes: Any) -> nn.Module:
    torch.manual_seed(seed)
    backbone = create_backbone(_NAME, pretrained=False, **{**_SMALL, **changes})
    for parameter in backbone.parameters():
        nn.init.normal_(parameter)
    return backbone


def _classifier(source: nn.Module, names: NameMap) -> dict[str, Tensor]:
    """Return a classifier's tensors: no output norms, but a last norm, a head and the index tables of some versions."""
    tensors = {name: tensor for name, tensor in names.export(source).items() if not name.startswith("norm")}
    block = "stages.0.blocks.1.attn.w_msa" if names is OPENMMLAB else "layers.0.blocks.1.attn"
    return tensors | {
        "norm.weight": torch.zeros(128),
        "norm.bias": torch.zeros(128),
        ("head.fc.weight" if names is TIMM else "head.weight"): torch.zeros(10, 128),
        f"{block}.relative_position_index": torch.zeros(49, 49, dtype=torch.int64),
        "layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49),
    }


@pytest.mark.parametrize("form", _MAPS)
@pytest.mark.parametrize("file_name", ["weights.pth", "weights.safetensors"])
def test_an_imagenet_file_fills_everything_but_the_output_norms(form: str, file_name: str, tmp_path: Path) -> None:
    source = _backbone()
    tensors = _classifier(source, _MAPS[form])
    file = tmp_path / file_name
    if file.suffix == ".safetensors":
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    else:
        torch.save({"model" if form == "microsoft" else "state_dict": tensors}, file)
    loaded = create_backbone(_NAME, weights=str(file), **_SMALL).state_dict()
    assert imagenet_map(tensors) is _MAPS[form]
    for name, tensor in source.state_dict().items():
        expected = tensor if not name.startswith("norms.") else torch.full_like(tensor, name.endswith("weight"))
        torch.testing.assert_close(loaded[name], expected, rtol=0, atol=0, msg=name)


def test_a_file_of_a_whole_segmentation_model_gives_its_backbone(tmp_path: Path) -> None:
    source = _backbone()
    tensors = {f"backbone.{name}": tensor for name, tensor in OPENMMLAB.export(source).items()}
    file = tmp_path / "segmentor.pth"
    torch.save({"state_dict": tensors | {"decode_head.conv_seg.weight": torch.zeros(3, 4, 1, 1)}}, file)
    loaded = create_backbone(_NAME, weights=str(file), **_SMALL).state_dict()
    for name, tensor in source.state_dict().items():
        torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0, msg=name)


def test_weights_of_timm_itself_give_the_levels_of_timm(tmp_path: Path) -> None:
    torch.manual_seed(2)
    theirs: Any = timm.create_model(_NAME, pretrained=False, num_classes=10, img_size=224, **_SMALL).eval()
    file = tmp_path / "timm.pth"
    torch.save(theirs.state_dict(), file)
    ours = create_backbone(_NAME, weights=str(file), output_norm=False, **_SMALL).eval()
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.forward_intermediates(image, intermediates_only=True)
        for level, other in zip(ours(image), expected, strict=True):
            torch.testing.assert_close(level, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "prefix"),  # timm's names are those of classifiers only
    [("timm", ""), ("microsoft", ""), ("openmmlab", ""), ("microsoft", "backbone."), ("openmmlab", "backbone.")],
)
def test_published_tensors_come_back_as_ours(form: str, prefix: str) -> None:
    model = nn.ModuleDict({"backbone": _backbone()}) if prefix else _backbone()
    names = _MAPS[form]
    published = names.export(model)
    assert all(name.startswith(prefix) for name in published)
    for name, tensor in names.convert(model, published).items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=0, atol=0, msg=name)


def test_published_names_are_those_of_the_specification() -> None:
    ours = ["patch_embed.proj.bias", "stages.1.blocks.0.attn.qkv.weight", "stages.1.blocks.0.mlp.fc1.bias"]
    ours += ["stages.1.blocks.0.mlp.fc2.bias", "stages.1.blocks.0.norm2.bias", "stages.1.downsample.norm.bias"]
    ours += ["stages.1.blocks.0.attn.relative_position_bias_table", "norms.3.weight", "patch_embed.norm.bias"]
    ecfd = ["patch_embed.proj.bias", "layers.1.blocks.0.attn.qkv.weight", "layers.1.blocks.0.mlp.fc1.bias"]
    ecfd += ["layers.1.blocks.0.mlp.fc2.bias", "layers.1.blocks.0.norm2.bias", "layers.1.downsample.norm.bias"]
    ecfd += ["layers.1.blocks.0.attn.relative_position_bias_table", "norm3.weight", "patch_embed.norm.bias"]
    iiwa = ["patch_embed.projection.bias", "stages.1.blocks.0.attn.w_msa.qkv.weight"]
    iiwa += ["stages.1.blocks.0.ffn.layers.0.0.bias", "stages.1.blocks.0.ffn.layers.1.bias"]
    iiwa += ["stages.1.blocks.0.norm2.bias", "stages.1.downsample.norm.bias"]
    iiwa += ["stages.1.blocks.0.attn.w_msa.relative_position_bias_table", "norm3.weight", "patch_embed.norm.bias"]
    assert set(ours) < set(_backbone().state_dict())
    for names, expected in ((MICROSOFT, ecfd), (OPENMMLAB, iiwa)):
        assert [names.to_published(name) for name in ours] == expected
        assert [names.to_published(f"backbone.{name}") for name in ours] == [f"backbone.{name}" for name in expected]
    assert TIMM.to_published("stages.1.downsample.norm.bias") == "layers.2.downsample.norm.bias"


def test_openmmlab_merges_channels_in_the_order_of_unfold() -> None:
    backbone = _backbone()
    published = OPENMMLAB.export(backbone)
    merging = backbone.get_submodule("stages.1.downsample")
    x = torch.randn(2, 6, 8, 32)
    unfolded = F.unfold(x.permute(0, 3, 1, 2), kernel_size=2, stride=2).transpose(1, 2)
    norm, norm_bias, reduction = (
        published[f"stages.1.downsample.{leaf}"] for leaf in ("norm.weight", "norm.bias", "reduction.weight")
    )
    expected = F.linear(F.layer_norm(unfolded, unfolded.shape[-1:], norm, norm_bias), reduction)
    torch.testing.assert_close(merging(x).flatten(1, 2), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", _MAPS)
def test_position_tables_are_stretched_to_another_window(form: str, tmp_path: Path) -> None:
    source = _backbone()
    file = tmp_path / "window7.pth"
    torch.save(_classifier(source, _MAPS[form]), file)
    loaded = create_backbone(_NAME, weights=str(file), window_size=4, **_SMALL).state_dict()
    for name, tensor in source.state_dict().items():
        if name.endswith("table"):
            torch.testing.assert_close(loaded[name], resize_table(tensor, 7), rtol=0, atol=0, msg=name)
            assert loaded[name].shape == (49, tensor.shape[1])


@pytest.mark.parametrize("side", [7, 13, 23])
def test_a_stretched_table_keeps_heads_apart_symmetry_and_the_middle(side: int) -> None:
    offsets = torch.linspace(-1, 1, 13)
    hill = (1 - offsets.square()[:, None]) * (1 - offsets.square())
    slope = offsets[:, None].expand(13, 13)
    table = torch.stack([hill, slope, torch.full((13, 13), 3.0)], dim=-1).reshape(169, 3)
    top, ramp, flat = resize_table(table, side).T.reshape(3, side, side)
    torch.testing.assert_close(top, top.flip(0))
    torch.testing.assert_close(top, top.T)
    assert top.argmax() == side * side // 2
    torch.testing.assert_close(ramp, -ramp.flip(0))
    assert (ramp.diff(dim=0) > 0).all()
    torch.testing.assert_close(flat, torch.full((side, side), 3.0))


@pytest.mark.parametrize("form", _MAPS)
def test_a_file_of_another_model_is_refused(form: str, tmp_path: Path) -> None:
    file = tmp_path / "other.pth"
    tensors = _classifier(_backbone(embed_dim=32), _MAPS[form])
    torch.save(tensors, file)
    with pytest.raises(InputError, match=rf"other\.pth does not fit {_NAME}: .*of another shape"):
        create_backbone(_NAME, weights=str(file), **_SMALL)
    tensors.pop(next(name for name in tensors if name.endswith("0.blocks.0.norm1.bias")))
    torch.save(tensors, file)
    with pytest.raises(InputError, match=r"1 missing .*blocks\.0\.norm1\.bias"):
        create_backbone(
            _NAME,
            weights=str(file),
            **_SMALL,
        )
