"""Published tensor names of IIWA, what shapes tell about a checkpoint, and what cannot be told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from iiwa.model import IIWA
from iiwa.names import find_blocks, infer_model, load_blocks, name_map
from iiwa.recipes import IIWA_B, IIWA_L, IIWA_S, PAPER, RECIPES, IIWAModel
from segcore.build import fine_tune_from, model_for_checkpoint
from segcore.errors import InputError
from segcore.recipe.plain import to_plain
from segcore.weights.files import save_weights
from segcore.weights.header import CheckpointMeta
from tests.iiwa.networks import TINY, noise, small_network

VARIANTS = {
    "s": IIWA_S,
    "b": IIWA_B,
    "l": IIWA_L,
    "tiny": TINY,
    "b576": replace(IIWA_B, fusion_window=(6, 6), decoder_window=(6, 6)),
}


def _shapes(model: IIWA) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in name_map(model).export(model).items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_options_are_found_from_the_shapes_of_every_variant(variant: str) -> None:
    options = replace(VARIANTS[variant], pretrained=False)
    with torch.device("meta"):
        model = IIWA(options, num_classes=4)
    other = replace(
        options,
        backbone="resnet18",
        backbone_width=0,
        backbone_depths=(),
        backbone_heads=(),
        embed_dim=64,
        query_dim=64,
        decoder_depth=1,
        decoder_window=(8, 8),
        head_scale=2,
    )
    found = infer_model(other, _shapes(model))
    assert isinstance(found, IIWAModel)
    with torch.device("meta"):
        again = IIWA(replace(found, backbone=found.backbone.replace("resnet18", TINY.backbone)), num_classes=4)
    assert _shapes(again) == _shapes(model)
    if variant in ("s", "b", "l"):
        assert found == options


def test_rectangular_windows_are_taken_from_the_options_where_they_fit() -> None:
    options = replace(TINY, decoder_window=(4, 8))
    shapes = _shapes(IIWA(options, 3))
    assert infer_model(options, shapes) == options
    with pytest.raises(InputError, match=r"position tables of 105 rows.*--model\.decoder-window 4 4"):
        infer_model(TINY, shapes)


def test_an_alternative_neck_of_two_rounds_is_told_by_its_tensors() -> None:
    options = replace(TINY, fusion="1", fusion_rounds=2, decoder_mlp_ratio=2.0)
    assert infer_model(TINY, _shapes(IIWA(options, 3))) == options


def test_names_inside_blocks_are_the_released_ones() -> None:
    names = _shapes(small_network())
    assert {
        "backbone.stages.2.blocks.1.attn.w_msa.relative_position_bias_table",
        "backbone.stages.1.downsample.reduction.weight",
        "backbone.norm3.weight",
        "neck.trf1s.0.avgpool_k.1.weight",
        "neck.trf3s.0.proj1.1.weight",
        "decode_head.stages.1.self_attn.qkv2.bias",
        "decode_head.stages.0.cross_attn.relative_position_bias_table",
        "decode_head.stages.0.cross_attn.v_lin2.weight",
    } <= names.keys()


def test_a_file_of_our_names_loads_into_the_network_it_was_made_with(tmp_path: Path) -> None:
    source = small_network(num_classes=8)
    tensors = {f"module.{name}": tensor for name, tensor in name_map(source).export(source).items()}
    for block in ("module.decode_head.stages.0.self_attn", "module.backbone.stages.0.blocks.0.attn.w_msa"):
        tensors[f"{block}.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)  # computed, not read
    file = tmp_path / "published.pth"
    torch.save({"meta": {"iter": 3}, "state_dict": tensors}, file)
    recipe = replace(RECIPES["toy"], model=replace(TINY, embed_dim=64, decoder_depth=4))
    model = model_for_checkpoint(PAPER, recipe, 8, file).eval()
    image = noise(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(image), source(image), rtol=0, atol=0)


def _as_released(model: IIWA) -> dict[str, Tensor]:
    """Return a network's tensors in made-up containers, as an unknown release might have them."""
    renames = (("decode_head.stages.", "decode_head.layers."), ("neck.trf", "neck.fusions.f"))
    tensors = name_map(model).export(model)
    for old, new in renames:
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    tensors["decode_head.patch_embed.proj.weight"] = tensors.pop("decode_head.query_embed.weight")
    return tensors


def test_unknown_containers_are_refused_with_what_is_recognized_and_what_is_not(tmp_path: Path) -> None:
    torch.save({"state_dict": _as_released(small_network())}, tmp_path / "released.pth")
    recipe = replace(RECIPES["toy"], model=TINY)
    expected = (
        r"released\.pth is a checkpoint of another model: its neck and decoder are not stored as ours are.*"
        r"7 blocks are recognized .*decode_head\.layers\.0\.cross_attn \(cross-IIWA\).*"
        r"tensors belong to none \(.*decode_head\.query_embed\.bias.*load_blocks"
    )
    with pytest.raises(InputError, match=expected):
        model_for_checkpoint(PAPER, recipe, 7, tmp_path / "released.pth")


def test_blocks_of_unknown_containers_load_by_their_tensors_and_the_rest_is_reported() -> None:
    source, target = small_network(), small_network()
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.add_(1)
    tensors = _as_released(source)
    report = load_blocks(target, tensors, name_map(target))
    assert report.loaded["decode_head.stages.1.self_attn"] == "decode_head.layers.1.self_attn"
    assert report.loaded["neck.trf1s.0"] == "neck.fusions.f1s.0"
    assert len(report.loaded) == 3 + 2 * 2
    assert "decode_head.patch_embed.proj.weight" in report.left_over
    assert "decode_head.head.classifier.weight" in report.missing
    changed = {name_map(target).to_published(name) for name in target.state_dict()} - set(report.missing)
    published, own = name_map(source).export(source), name_map(target).export(target)
    for name in changed:
        torch.testing.assert_close(own[name], published[name], rtol=0, atol=0, msg=name)
    assert all(not torch.equal(own[name], published[name]) for name in report.missing)


def test_a_backbone_of_another_size_is_refused_block_by_block_too() -> None:
    tensors = _as_released(small_network())
    other = small_network(backbone_width=32)
    with pytest.raises(InputError, match="not those of this backbone"):
        load_blocks(other, tensors, name_map(other))


def test_a_file_without_neck_and_decoder_is_refused() -> None:
    with pytest.raises(InputError, match=r"no IIWA head \(neck, decode_head\); it starts with backbone\.conv1\.weight"):
        infer_model(IIWA_S, {"backbone.conv1.weight": (64, 3, 7, 7)})
    assert find_blocks(["decode_head.norm.weight", "neck.convs.0.weight"]) == {}


def test_the_second_stage_starts_from_the_first_although_their_dropout_differs(tmp_path: Path) -> None:
    first = replace(RECIPES["toy"], model=replace(TINY, decoder_dropout=0.1))
    model = small_network(num_classes=19, decoder_dropout=0.1)
    meta = CheckpointMeta(
        paper="iiwa",
        recipe_name="toy",
        recipe=to_plain(first),
        classes=[str(i) for i in range(19)],
        palette=[[i, i, i] for i in range(19)],
        iteration=1,
        scores={},
        versions={},
    )
    save_weights(tmp_path / "last.safetensors", model.state_dict(), meta)
    second = fine_tune_from(PAPER, replace(first, model=TINY), 19, tmp_path / "last.safetensors")
    for name, tensor in second.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=0, atol=0, msg=name)
    assert second.head.decoder.stages[0].self_attn.mlp.drop1.p == 0  # pyright: ignore
