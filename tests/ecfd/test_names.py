"""Published tensor names of ECFD, and what shapes tell about a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ecfd.model import ECFD
from ecfd.names import infer_model, name_map
from ecfd.recipes import BASE, LARGE, PAPER, RECIPES, SMALL, TINY, ECFDModel
from segcore.build import model_for_checkpoint
from segcore.errors import InputError
from tests.ecfd.networks import VARIANTS, options, small_network

PUBLISHED = {
    "tiny": TINY,
    "small": SMALL,
    "base": BASE,
    "large": replace(LARGE, depth=5),
    "R101": replace(TINY, backbone="resnet101c", depth=1),
    "Pascal": replace(SMALL, position_grid=(120, 120)),
    "Swin": replace(TINY, backbone="swin_large_patch4_window7_224", channels=192),
    "ConvNeXt": replace(SMALL, backbone="convnext_large", channels=192),
    **{variant: replace(TINY, head=variant) for variant in VARIANTS if variant != "general"},
    "general": replace(TINY, head="general", output_stride=8),
    "half values": replace(TINY, value_ratio=0.5, points=3, mlp_ratio=0.25),
}


def _shapes(model: ECFD) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in name_map(model).export(model).items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_options_are_found_from_the_shapes_of_every_variant(name: str) -> None:
    wanted = replace(PUBLISHED[name], pretrained=False)
    with torch.device("meta"):
        model = ECFD(wanted, num_classes=4)
    other = ECFDModel(backbone="resnet18", pretrained=False, channels=7, depth=2, embed_dim=24, heads=6)
    found = infer_model(other, _shapes(model))
    if wanted.head == "fpn":  # has no blocks that would tell
        found = replace(found, depth=wanted.depth)  # pyright: ignore[reportArgumentType]
    assert found == wanted


def test_odd_widths_and_heads_of_ones_own_are_found_again() -> None:
    # 29 / 25 * 25 is less than 29 in floats
    wanted = options(embed_dim=25, heads=1, value_ratio=29.5 / 25, mlp_ratio=13.5 / 25, backbone="resnet50c")
    with torch.device("meta"):
        shapes = _shapes(ECFD(wanted, num_classes=4))
    found = infer_model(wanted, shapes)
    assert isinstance(found, ECFDModel)
    assert (int(25 * found.value_ratio), int(25 * found.mlp_ratio)) == (29, 13)
    four_heads = replace(TINY, heads=4, pretrained=False)  # as wide as the published one of six
    with torch.device("meta"):
        shapes = _shapes(ECFD(four_heads, num_classes=4))
    assert infer_model(four_heads, shapes) == four_heads


def test_context_is_added_to_the_levels_of_two_streams_only() -> None:
    asked = replace(TINY, context_to_levels=True)
    for variant, is_added in (("patch4", True), ("spatial", False), ("fpn", False)):
        with torch.device("meta"):
            shapes = _shapes(ECFD(replace(TINY, head=variant, pretrained=False), num_classes=4))
        found = infer_model(asked, shapes)
        assert isinstance(found, ECFDModel)
        assert found.context_to_levels is is_added


def test_a_tag_of_the_weights_stays_where_the_backbone_is_the_same() -> None:
    tagged = replace(RECIPES["tiny-swin-l-cityscapes"].model, pretrained=False)
    with torch.device("meta"):
        model = ECFD(tagged, num_classes=4)  # pyright: ignore[reportArgumentType]
    assert infer_model(tagged, _shapes(model)).backbone == "swin_large_patch4_window7_224.ms_in22k"


def test_published_names_are_those_of_the_specification() -> None:
    with torch.device("meta"):
        names = set(_shapes(ECFD(replace(TINY, pretrained=False), num_classes=4)))
        fpn = set(_shapes(ECFD(replace(TINY, pretrained=False, head="fpn"), num_classes=4)))
    assert {
        "backbone.stem.7.running_var",
        "decode_head.pos_embed",
        "decode_head.norm4.weight",
        "decode_head.c2_deconv1x1.bias",
        "decode_head.RCE.layer4_embedding.weight",
        "decode_head.blocks.2.CICM.attn.sampling_offsets.bias",
        "decode_head.blocks.0.SICM.Mlp.dwconv.dwconv.weight",
        "decode_head.clgd.conv_att.0.weight",
        "decode_head.fpn.conv5.1.running_mean",
        "auxiliary_head.convs.0.bn.num_batches_tracked",
        "auxiliary_head.conv_seg.weight",
    } <= names
    assert {"decode_head.clgd_conv1x1.weight", "decode_head.c3_deconv1x1.weight"} <= fpn
    assert not any("norm2" in name for name in fpn if name.startswith("decode_head"))


def test_a_published_file_loads_into_the_network_it_was_made_with(tmp_path: Path) -> None:
    source = small_network(num_classes=5, backbone="resnet50c", depth=1)
    file = tmp_path / "published.pth"
    torch.save({"meta": {"iter": 3}, "state_dict": name_map(source).export(source)}, file)
    recipe = replace(RECIPES["tiny-r50-cityscapes"], model=options(backbone="resnet50c", depth=4))  # the file says 1
    model = model_for_checkpoint(PAPER, recipe, 5, file)
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(image), source(image), rtol=0, atol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_of_every_variant_round_trip_without_loss(variant: str) -> None:
    changes = {"backbone": "resnet50c", "output_stride": 8} if variant == "general" else {}
    source, target = (small_network(head=variant, **changes) for _ in range(2))
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.add_(1)
    names = name_map(source)
    target.load_state_dict(names.convert(target, names.export(source)))
    for (name, mine), other in zip(target.state_dict().items(), source.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0, msg=name)


def test_another_checkpoint_is_refused_with_its_first_names() -> None:
    with pytest.raises(InputError, match=r"no ECFD head .* starts with encoder\.weight"):
        infer_model(TINY, {"encoder.weight": (3, 3)})


def test_a_position_grid_of_an_unknown_crop_must_be_named() -> None:
    with torch.device("meta"):
        shapes = _shapes(ECFD(replace(TINY, pretrained=False, position_grid=(60, 80)), num_classes=4))
    with pytest.raises(InputError, match=r"4800 places, not 128x256; .*--model\.position-grid HEIGHT WIDTH"):
        infer_model(TINY, shapes)
    told = infer_model(replace(TINY, position_grid=(60, 80)), shapes)
    assert isinstance(told, ECFDModel)
    assert told.position_grid == (60, 80)
