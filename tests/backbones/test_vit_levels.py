"""Layers of plain transformers as levels: against timm, at any size, with the tables of positions of their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor

from segcore.backbones import create_backbone
from segcore.backbones.timm_names import RENAMES
from segcore.backbones.vit_levels import MEMORYNET_RENAMES, Resize, TransformerLevels, resize_positions
from segcore.errors import InputError
from segcore.weights.names import NameMap

_VIT = "vit_tiny_patch16_224"
_DEIT = "deit_tiny_distilled_patch16_224"
_LAYERS = (2, 5, 9)


def _image(height: int, width: int) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def _ours(name: str, mode: Resize = "antialiased", img_size: int = 64) -> TransformerLevels:
    torch.manual_seed(0)
    backbone = create_backbone(name, pretrained=False, img_size=img_size, layers=_LAYERS, position_resize=mode)
    assert isinstance(backbone, TransformerLevels)
    with torch.no_grad():
        for parameter in backbone.parameters():  # timm starts layer scales and biases at nearly nothing
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return backbone.eval()


def _levels_of_timm(name: str, ours: TransformerLevels, image: Tensor) -> list[Tensor]:
    theirs: Any = timm.create_model(name, num_classes=0, img_size=64, dynamic_img_size=True).eval()
    missing, unexpected = theirs.load_state_dict(ours.model.state_dict(), strict=False)
    assert not unexpected
    assert all(key.startswith(("norm.", "fc_norm.", "blocks.9.", "blocks.10.", "blocks.11.")) for key in missing)
    return theirs.forward_intermediates(image, indices=[1, 4, 8], norm=False, intermediates_only=True)


@pytest.mark.parametrize("name", [_VIT, _DEIT, "deit3_small_patch16_224", "eva02_tiny_patch14_224"])
@pytest.mark.parametrize("grid", [(4, 4), (5, 3)])
@torch.no_grad()
def test_levels_are_the_intermediate_outputs_of_timm(name: str, grid: tuple[int, int]) -> None:
    ours = _ours(name)
    image = _image(grid[0] * ours.patch, grid[1] * ours.patch)
    levels = ours(image)
    assert ours.strides == (ours.patch,) * 3
    for level, channels, expected in zip(levels, ours.channels, _levels_of_timm(name, ours, image), strict=True):
        assert tuple(level.shape) == (1, channels, *grid)
        torch.testing.assert_close(level, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["antialiased", "bilinear"])
@torch.no_grad()
def test_other_sizes_are_zero_padded_at_bottom_and_right_to_whole_patches(mode: Resize) -> None:
    backbone = _ours(_VIT, mode)
    image = _image(50, 70)
    assert backbone.legal_size(50, 70) == (50, 70)
    for level, padded in zip(backbone(image), backbone(F.pad(image, (0, 10, 0, 14))), strict=True):
        assert tuple(level.shape[-2:]) == (4, 5)
        torch.testing.assert_close(level, padded, rtol=0, atol=0)


@torch.no_grad()
def test_bilinear_positions_are_those_of_a_model_built_for_the_size() -> None:
    flexible, built = _ours(_VIT, "bilinear"), _ours(_VIT, "bilinear", img_size=96)
    image = _image(96, 96)
    table = flexible.model.pos_embed
    grid = F.interpolate(table[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2), size=(6, 6), mode="bilinear")
    resized = torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    built.load_state_dict({**flexible.state_dict(), "model.pos_embed": resized})
    levels = flexible(image)
    for level, expected in zip(levels, built(image), strict=True):
        torch.testing.assert_close(level, expected, rtol=1e-5, atol=1e-5)
    flexible.position_resize = "antialiased"
    assert float((flexible(image)[0] - levels[0]).abs().max()) > 1e-3


@pytest.mark.parametrize("size", [(30, 30), (24, 24), (7, 40)])
def test_tables_without_filter_are_resized_as_by_the_function_of_timm(size: tuple[int, int]) -> None:
    table = torch.randn(1, 2 + 24 * 24, 8, generator=torch.Generator().manual_seed(0))
    modes: tuple[tuple[Resize, bool], ...] = (("bicubic", False), ("antialiased", True))
    for mode, antialias in modes:
        ours = resize_positions(table, size, mode, (24, 24))
        theirs = resample_abs_pos_embed(table, list(size), [24, 24], num_prefix_tokens=2, antialias=antialias)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(ours[:, :2], table[:, :2], rtol=0, atol=0)


def test_bilinear_resizing_leaves_a_table_of_the_right_length_alone() -> None:
    table = torch.randn(1, 1 + 16, 8, generator=torch.Generator().manual_seed(0))
    assert resize_positions(table, (2, 8), "bilinear", (4, 4)) is table
    assert not torch.equal(resize_positions(table, (2, 8), "bicubic", (4, 4)), table)


def test_double_precision_positions_are_resized_in_double_precision() -> None:
    table = torch.randn(1, 1 + 16, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = resize_positions(table, (5, 6), "bilinear", (4, 4))
    rounded = resize_positions(table.float(), (5, 6), "bilinear", (4, 4)).double()
    assert exact.dtype == torch.float64
    assert 0 < float((exact - rounded).abs().max()) < 1e-5


def _deit_file(folder: Path, img_size: int) -> tuple[str, dict[str, Tensor]]:
    """Write a file as DeiT's authors do, with both classifiers; return it and its tensors."""
    torch.manual_seed(1)
    model = timm.create_model(_DEIT, num_classes=10, img_size=img_size)
    file = folder / "deit.pth"
    torch.save({"model": model.state_dict()}, file)
    return str(file), model.state_dict()


@pytest.mark.parametrize("stored", [224, 96])
def test_a_file_fills_every_tensor_and_its_table_is_resized_once(stored: int, tmp_path: Path) -> None:
    file, state = _deit_file(tmp_path, stored)
    grid = stored // 16
    backbone = create_backbone(_DEIT, weights=file, layers=(4, 8, 12), img_size=160, position_resize="bicubic")
    expected = {f"model.{k}": v for k, v in state.items() if not k.startswith(("norm.", "head.", "head_dist."))}
    expected["model.pos_embed"] = resize_positions(state["pos_embed"], (10, 10), "bicubic", (grid, grid))
    loaded = backbone.state_dict()
    assert loaded.keys() == expected.keys()
    for name, tensor in loaded.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0, msg=name)
    with torch.no_grad():
        assert [tuple(level.shape) for level in backbone(_image(160, 160))] == [(1, 192, 10, 10)] * 3


def test_without_a_size_the_table_stays_that_of_the_file(tmp_path: Path) -> None:
    file, state = _deit_file(tmp_path, 96)
    table = create_backbone(_DEIT, weights=file, layers=(12,)).state_dict()["model.pos_embed"]
    torch.testing.assert_close(table, state["pos_embed"], rtol=0, atol=0)


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    file, _ = _deit_file(tmp_path, 96)
    with pytest.raises(InputError, match=r"deit\.pth does not fit deit_small_distilled_patch16_224"):
        create_backbone("deit_small_distilled_patch16_224", weights=file, layers=(12,))


@pytest.mark.parametrize("layers", [(), (0, 4), (4, 13), (8, 4), (4, 4)])
def test_layers_that_are_not_there_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"has the layers 1 to 12; expected some of them, rising"):
        create_backbone(_VIT, pretrained=False, img_size=64, layers=layers)


def test_a_position_table_of_less_than_a_patch_is_refused() -> None:
    with pytest.raises(InputError, match=r"cuts images into patches of 16 pixels; .* got 5"):
        create_backbone(_VIT, pretrained=False, img_size=5, layers=(12,))


@torch.no_grad()
def test_a_model_with_rotary_positions_takes_a_resize_rule_and_keeps_its_own() -> None:
    ours = _ours("eva02_tiny_patch14_224", "bilinear")
    image = _image(70, 42)
    for level, expected in zip(ours(image), _levels_of_timm("eva02_tiny_patch14_224", ours, image), strict=True):
        torch.testing.assert_close(level, expected, rtol=1e-5, atol=1e-5)


def test_gradients_reach_every_parameter() -> None:
    backbone = _ours(_DEIT, "bilinear").train()
    torch.stack([level.square().mean() for level in backbone(_image(50, 70))]).sum().backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []


def test_published_names_of_memorynet_are_complete_and_lead_back() -> None:
    backbone = _ours(_VIT)
    name_map = NameMap(MEMORYNET_RENAMES)
    published = name_map.export(backbone)
    block = {f"ln{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}
    block |= {f"attn.attn.{name}" for name in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")}
    block |= {f"ffn.layers.{name}" for name in ("0.0.weight", "0.0.bias", "1.weight", "1.bias")}
    stem = {"cls_token", "pos_embed", "patch_embed.projection.weight", "patch_embed.projection.bias"}
    assert set(published) == stem | {f"layers.{i}.{name}" for i in range(9) for name in block}
    for name, tensor in name_map.convert(backbone, published).items():
        assert torch.equal(tensor, backbone.state_dict()[name])
    within = {name_map.to_published(f"backbone.{name}") for name in backbone.state_dict()}
    assert within == {f"backbone.{name}" for name in published}


def test_published_names_of_deit_are_those_of_timm() -> None:
    ours = {NameMap(RENAMES).to_published(f"backbone.{name}") for name in _ours(_DEIT).state_dict()}
    with torch.device("meta"):
        theirs = timm.create_model(_DEIT, num_classes=0).state_dict()
    assert ours < {f"backbone.{name}" for name in theirs}
    assert {"backbone.dist_token", "backbone.patch_embed.proj.bias", "backbone.blocks.8.attn.qkv.bias"} <= ours


def test_an_exported_program_takes_any_batch_size() -> None:
    backbone = create_backbone("deit_tiny_distilled_patch16_224", pretrained=False, layers=(1, 2), img_size=32).eval()
    dynamic = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(backbone, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=dynamic).module()
    image = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for exported, level in zip(program(image), backbone(image), strict=True):
            torch.testing.assert_close(exported, level)
