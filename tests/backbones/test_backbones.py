"""Backbones: sizes, strides, weights files, norms, and the position bias of EfficientFormerV2."""

from __future__ import annotations

import copy
import pickle
import socket
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from segcore.backbones import create_backbone, pretrained
from segcore.backbones.efficientformer_v2 import VARIANTS
from segcore.backbones.position_bias import PositionBias
from segcore.distributed import synchronized_norms
from segcore.errors import InputError
from segcore.weights.names import NameMap


def _image(height: int, width: int) -> torch.Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("efficientformerv2_s0", (60, 92)),
        ("resnet18", (97, 64)),
        ("convnext_atto", (96, 64)),
        ("swin_tiny_patch4_window7_224", (50, 70)),
        ("hrnet_w18_small", (50, 70)),
        ("vit_tiny_patch16_224", (50, 70)),
        ("vit_small_patch16_dinov3", (50, 70)),
        ("vit_small_patch14_dinov2", (50, 70)),
    ],
)
def test_every_level_has_the_promised_channels_and_stride(name: str, size: tuple[int, int]) -> None:
    backbone = create_backbone(name, pretrained=False).eval()
    height, width = backbone.legal_size(*size)
    assert height >= size[0]
    assert width >= size[1]
    with torch.no_grad():
        levels = backbone(_image(height, width))
    assert backbone.strides == (4, 8, 16, 32)
    for level, channels, stride in zip(levels, backbone.channels, backbone.strides, strict=True):
        assert level.shape[1] == channels
        # levels round up or down where the size is no multiple of the stride
        assert abs(level.shape[-2] - height / stride) < 1
        assert abs(level.shape[-1] - width / stride) < 1


@pytest.mark.parametrize("size", [(1, 1), (5, 70), (33, 31)])
@pytest.mark.parametrize(
    "name",
    ["resnet18", "convnext_atto", "pvt_v2_b0", "vgg11", "resnest14d", "hrnet_w18_small", "mobilenetv3_small_050"],
)
def test_the_smallest_images_have_a_legal_size(name: str, size: tuple[int, int]) -> None:
    backbone = create_backbone(name, pretrained=False).eval()
    height, width = backbone.legal_size(*size)
    assert height >= size[0]
    assert width >= size[1]
    with torch.no_grad():
        assert all(level.numel() > 0 for level in backbone(_image(height, width)))


def test_a_plain_transformer_takes_another_size_than_it_was_built_for() -> None:
    backbone = create_backbone("vit_tiny_patch16_224", pretrained=False).eval()
    with torch.no_grad():
        small, large = backbone(_image(32, 48)), backbone(_image(64, 32))
    assert [tuple(level.shape[-2:]) for level in small] == [(8, 12), (4, 6), (2, 3), (1, 2)]
    assert [tuple(level.shape[-2:]) for level in large] == [(16, 8), (8, 4), (4, 2), (2, 1)]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("efficientformerv2_s4", "close names: .*efficientformerv2_s"),
        ("nothing_like_it_at_all", "neither segcore nor timm has a backbone of that name"),
        ("coatnet_0_224", "takes images of 224x224 only"),
    ],
)
def test_a_backbone_that_cannot_be_used_is_refused_with_a_sentence(name: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        create_backbone(name, pretrained=False)


@pytest.mark.parametrize("name", ["efficientformerv2_s0", "resnet18", "vit_tiny_patch16_224"])
def test_without_a_network_the_error_names_the_two_ways_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> socket.socket:
        raise OSError("Name or service not known")

    monkeypatch.setattr(pretrained, "getproxies", dict)
    monkeypatch.setattr(pretrained, "_cached_file", lambda _: "")
    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(InputError, match=r"--model\.weights FILE.*--model\.pretrained false"):
        create_backbone(name)


def test_a_download_that_breaks_off_is_the_same_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_off(*_: object, **__: object) -> nn.Module:
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(pretrained, "_cached_file_of", lambda _: "")
    monkeypatch.setattr(timm, "create_model", break_off)
    with pytest.raises(InputError, match=r"--model\.pretrained false"):
        pretrained.create_timm_model("resnet18", pretrained=True, weights="")


def test_a_missing_weights_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.pth"):
        create_backbone("efficientformerv2_s0", weights=str(tmp_path / "absent.pth"))
    with pytest.raises(InputError, match=r"absent\.pth"):
        create_backbone("resnet18", weights=str(tmp_path / "absent.pth"))


def _timm_state(name: str) -> dict[str, torch.Tensor]:
    """Return ImageNet-shaped weights of timm with recognizable values."""
    torch.manual_seed(1)
    model = timm.create_model(name, pretrained=False, num_classes=10)
    for key, parameter in model.named_parameters():
        if key.endswith("attention_biases"):
            nn.init.normal_(parameter)
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def _reference_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return timm's tensors by the names of EfficientFormerV2's authors."""
    from segcore.backbones.efficientformer_v2_weights import REFERENCE_RENAMES

    names = NameMap(REFERENCE_RENAMES)
    return {names.to_published(key): tensor for key, tensor in state.items()}


@pytest.mark.parametrize("form", ["timm.safetensors", "timm.pth", "authors.pth"])
def test_imagenet_files_load_under_either_naming_and_leave_the_position_tables_at_zero(
    form: str, tmp_path: Path
) -> None:
    state = _timm_state("efficientformerv2_s0")
    file = tmp_path / form
    if form == "timm.safetensors":
        safetensors.torch.save_file(state, file)
    else:
        torch.save({"model": _reference_state(state)} if form == "authors.pth" else state, file)
    backbone = create_backbone("efficientformerv2_s0", weights=str(file))
    for key, tensor in backbone.state_dict().items():
        if key.endswith("position_bias.table"):
            assert not tensor.any(), key
        else:
            torch.testing.assert_close(tensor, state[key], rtol=0, atol=0, msg=key)


def test_resampled_tables_keep_their_first_and_last_offset(tmp_path: Path) -> None:
    state = _timm_state("efficientformerv2_s0")
    file = tmp_path / "weights.pth"
    torch.save(state, file)
    backbone = create_backbone("efficientformerv2_s0", weights=str(file), position_tables="resampled")
    tables = {k: t for k, t in backbone.state_dict().items() if k.endswith("position_bias.table")}
    assert len(tables) == 5
    for key, table in tables.items():
        published = state[key.replace("position_bias.table", "attention_biases")]
        torch.testing.assert_close(table[:, [0, -1]], published[:, [0, -1]])
        assert table[:, 1:-1].std() > 0


def test_weights_of_another_variant_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(_timm_state("efficientformerv2_s0"), file)
    with pytest.raises(InputError, match=r"does not fit efficientformerv2_s1: .* missing"):
        create_backbone("efficientformerv2_s1", weights=str(file))


def test_a_weights_file_reaches_any_timm_model(tmp_path: Path) -> None:
    state = timm.create_model("resnet18", pretrained=False).state_dict()
    file = tmp_path / "resnet.pth"
    torch.save(state, file)
    backbone = create_backbone("resnet18", weights=str(file))
    loaded = backbone.state_dict()
    assert len(loaded) > 100
    for key, tensor in loaded.items():
        torch.testing.assert_close(tensor, state[key.removeprefix("model.")], rtol=0, atol=0, msg=key)


@pytest.mark.parametrize("other", ["resnet34", "convnext_atto", "resnet50"])
def test_weights_of_another_timm_model_are_refused(other: str, tmp_path: Path) -> None:
    file = tmp_path / "other.pth"
    torch.save(timm.create_model(other, pretrained=False).state_dict(), file)
    target = "resnet50" if other == "resnet34" else "resnet34"
    with pytest.raises(InputError, match=rf"other\.pth does not fit {target}"):
        create_backbone(target, weights=str(file))


def test_legal_sides_have_an_even_map_at_stride_16_and_legal_ones_stay() -> None:
    with torch.device("meta"):
        backbone = create_backbone("efficientformerv2_s0", pretrained=False)
    for side in range(1, 130):
        legal, other = backbone.legal_size(side, 32)
        assert other == 32
        assert -(-legal // 16) % 2 == 0, side
        assert (legal == side) == (side % 32 == 0 or side % 32 >= 17), side
        assert legal == side or (legal % 32 == 0 and side < legal < side + 32), side


def test_levels_at_512_equal_those_of_timm_built_for_it() -> None:
    torch.manual_seed(0)
    ours = create_backbone("efficientformerv2_s0", pretrained=False).eval()
    theirs = timm.create_model("efficientformerv2_s0", pretrained=False, img_size=512).eval()
    state = {k.replace("position_bias.table", "attention_biases"): t for k, t in ours.state_dict().items()}
    theirs.load_state_dict(state, strict=False)
    image = _image(512, 512)
    with torch.no_grad():
        expected = theirs.forward_intermediates(image, intermediates_only=True)
        for level, other in zip(ours(image), expected, strict=True):
            torch.testing.assert_close(level, other, rtol=1e-5, atol=1e-5)


def _bias(grid: int = 16, stride: int = 1) -> PositionBias:
    bias = PositionBias(2, grid, stride)
    nn.init.normal_(bias.table, generator=torch.Generator().manual_seed(0))
    return bias


@pytest.mark.parametrize("stride", [1, 2])
def test_position_bias_at_the_base_size_is_the_table_by_offset(stride: int) -> None:
    bias = _bias(grid=6, stride=stride)
    matrix = bias(6, 6)
    table = bias.table.reshape(2, 6, 6)
    queries = [(y, x) for y in range(0, 6, stride) for x in range(0, 6, stride)]
    for i, (qy, qx) in enumerate(queries):
        for j in range(36):
            torch.testing.assert_close(matrix[:, i, j], table[:, abs(qy - j // 6), abs(qx - j % 6)])


def test_position_bias_of_another_size_is_the_stretched_matrix() -> None:
    bias = _bias(grid=6, stride=2)
    expected = nn.functional.interpolate(bias(6, 6)[None], size=(2 * 3, 4 * 5), mode="bicubic")[0]
    torch.testing.assert_close(bias(4, 5), expected)


def test_kept_bias_follows_grid_weights_and_mode() -> None:
    bias = _bias().eval()
    with torch.no_grad():
        first = bias(4, 6)
        assert bias(4, 6) is first
        assert bias(6, 4).shape == first.shape
        bias.table.mul_(2)
        torch.testing.assert_close(bias(4, 6), 2 * first)
        bias.load_state_dict({"table": torch.ones_like(bias.table)})
        torch.testing.assert_close(bias(4, 6), torch.ones_like(first))
        bias.table.data = bias.table.data * 3
        torch.testing.assert_close(bias(4, 6), 3 * torch.ones_like(first))
    assert bias(4, 6).requires_grad
    assert bias.train()(4, 6).requires_grad


def test_kept_bias_survives_copies_and_mixed_modes() -> None:
    bias = _bias().eval()
    with torch.inference_mode():
        kept = bias(4, 6)
    for twin in (copy.deepcopy(bias), pickle.loads(pickle.dumps(bias))):
        assert twin._kept == {}
        torch.testing.assert_close(twin(4, 6).detach(), kept.clone())
    bias.table.requires_grad_(False)
    scores = torch.zeros(2, 24, 24, requires_grad=True)
    (scores * bias(4, 6)).sum().backward()  # a tensor made in inference mode could not be saved for this
    assert scores.grad is not None


def test_norm_policies_decide_what_is_synchronized_and_what_is_frozen() -> None:
    norms = {}
    for policy in ("sync", "batch", "frozen"):
        backbone = create_backbone("efficientformerv2_s0", pretrained=False, norm=policy).train()
        norms[policy] = synchronized_norms(backbone)
        statistics = backbone.stages[0].blocks[0].mlp.fc1.bn.running_mean.clone()
        backbone(_image(64, 64).repeat(2, 1, 1, 1))
        has_moved = not torch.equal(statistics, backbone.stages[0].blocks[0].mlp.fc1.bn.running_mean)
        assert has_moved == (policy != "frozen")
    assert len(norms["sync"]) == sum(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())
    assert not norms["batch"]
    assert not norms["frozen"]


def test_initial_values_are_the_published_ones() -> None:
    torch.manual_seed(0)
    state = create_backbone("efficientformerv2_s0", pretrained=False).state_dict()
    fc1 = state["stages.3.blocks.0.mlp.fc1.conv.weight"]
    assert abs(float(fc1.std()) - 0.02) < 0.002
    assert not state["stages.3.blocks.0.mlp.fc1.conv.bias"].any()
    assert state["stages.3.blocks.0.mlp.mid.conv.bias"].any()
    assert (state["stages.3.blocks.0.ls2.gamma"] == 1e-5).all()


@pytest.mark.parametrize("name", VARIANTS)
def test_drop_path_is_off_unless_asked_for(name: str) -> None:
    with torch.device("meta"):
        plain = create_backbone(name, pretrained=False)
        deep = create_backbone(name, pretrained=False, drop_path_rate=0.2)
    assert not any(type(m).__name__ == "DropPath" for m in plain.modules())
    rates = [m.drop_prob for m in deep.modules() if type(m).__name__ == "DropPath"]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.2)
