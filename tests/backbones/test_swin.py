"""Swin: equality with timm, sizes, windows, merging and options. Its weights files are in test_backbone_swin_names."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from einops import rearrange
from timm.layers.drop import DropPath
from torch import Tensor, nn

from segcore.backbones import create_backbone
from segcore.backbones.swin import PatchMerging, Swin, WindowAttention, shift_mask
from segcore.backbones.swin_names import TIMM
from segcore.errors import InputError

_NAME = "swin_tiny_patch4_window7_224"
_SMALL: dict[str, Any] = {"embed_dim": 16, "depths": (2, 1, 2, 2), "num_heads": (1, 2, 2, 4), "window_size": 4}


def _image(height: int, width: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def _small(**changes: Any) -> Swin:
    """Return a small Swin whose position tables and norms have values that show."""
    torch.manual_seed(0)
    backbone = create_backbone(_NAME, pretrained=False, **{**_SMALL, **changes}).eval()
    assert isinstance(backbone, Swin)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, mean=0.0 if parameter.ndim > 1 else 0.5, std=0.3)
    return backbone


def test_levels_equal_timm_where_every_map_is_whole_windows() -> None:
    ours = _small(output_norm=False)
    theirs = timm.create_model(
        _NAME, pretrained=False, features_only=True, img_size=(128, 256), always_partition=True, **_SMALL
    ).eval()
    state = {TIMM.to_published(name).replace("layers.", "layers_"): t for name, t in ours.state_dict().items()}
    theirs.load_state_dict(state)
    image = _image(128, 256, batch=2)  # maps of 32x64 to 4x8, windows of 4
    with torch.no_grad():
        for level, expected in zip(ours(image), theirs(image), strict=True):
            torch.testing.assert_close(level, expected.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 96), (50, 70), (33, 17), (5, 3), (1, 1)])
@pytest.mark.parametrize(
    ("merge_strides", "strides"),
    [((4, 2, 2, 2), (4, 8, 16, 32)), ((4, 2, 1, 1), (4, 8, 8, 8)), ((2, 2, 2, 1), (2, 4, 8, 8))],
)
def test_any_size_gives_levels_rounded_up(
    size: tuple[int, int], merge_strides: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    backbone = _small(merge_strides=merge_strides)
    assert backbone.strides == strides
    assert backbone.channels == (16, 32, 64, 128)
    assert backbone.legal_size(*size) == size
    with torch.no_grad():
        levels = backbone(_image(*size))
    for level, channels, stride in zip(levels, backbone.channels, strides, strict=True):
        assert tuple(level.shape) == (1, channels, math.ceil(size[0] / stride), math.ceil(size[1] / stride))


def test_an_image_in_a_batch_gives_what_it_gives_alone() -> None:
    backbone = _small()
    images = _image(50, 70, batch=3)
    with torch.no_grad():
        together = backbone(images)
        for i in range(3):
            for level, alone in zip(together, backbone(images[i : i + 1]), strict=True):
                torch.testing.assert_close(level[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def _attend_by_definition(attention: WindowAttention, x: Tensor) -> Tensor:
    """Attend as ecfd/PAPER 2 says it, token by token: (h, w, C) -> (h, w, C)."""
    side, shift, heads = attention.window, attention.shift, attention.num_heads
    (height, width), channels = ([-(-n // side) * side for n in x.shape[:2]], x.shape[2])
    padded = torch.zeros(height, width, channels)
    padded[: x.shape[0], : x.shape[1]] = x
    q, k, v = attention.qkv(padded).unflatten(-1, (3, heads, -1)).unbind(2)  # (H, W, M, D)
    out = torch.zeros(height, width, heads, channels // heads)
    table = attention.relative_position_bias_table
    # where a position lies after the shift, and to which of the three regions per axis it belongs
    places = {(r, c): ((r - shift) % height, (c - shift) % width) for r in range(height) for c in range(width)}

    def region(place: int, length: int) -> int:
        return 0 if place < length - side else 1 if place < length - shift else 2

    for at, (row, column) in places.items():
        for m in range(heads):
            scores, values = [], []
            for other, (r, c) in places.items():
                if (r // side, c // side) != (row // side, column // side):
                    continue
                same = region(r, height) == region(row, height) and region(c, width) == region(column, width)
                index = (2 * side - 1) * (row - r + side - 1) + (column - c + side - 1)
                score = q[at][m] @ k[other][m] * (channels // heads) ** -0.5 + table[index, m]
                scores.append(score if same or not shift else score - 100)
                values.append(v[other][m])
            out[at][m] = torch.stack(scores).softmax(0) @ torch.stack(values)
    return attention.proj(out.flatten(2))[: x.shape[0], : x.shape[1]]


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("size", [(6, 3), (4, 5), (2, 2), (1, 7)])
def test_attention_is_that_of_the_definition(size: tuple[int, int], shift: int) -> None:
    torch.manual_seed(0)
    attention = WindowAttention(8, num_heads=2, window=3, shift=shift)
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, *size, 8)
    padded = [-(-side // 3) * 3 for side in size]
    mask = shift_mask(padded[0], padded[1], 3, x.device) if shift else None
    with torch.no_grad():
        expected = torch.stack([_attend_by_definition(attention, image) for image in x])
        torch.testing.assert_close(attention(x, mask), expected, rtol=1e-4, atol=1e-4)


def test_the_shift_stays_on_where_one_window_holds_the_map() -> None:
    backbone = _small(depths=(1, 1, 1, 2))
    image = _image(64, 64)  # stride 32: 2x2 positions, one window of 4
    with torch.no_grad():
        shifted = backbone(image)[-1]
        block = backbone.get_submodule("stages.3.blocks.1.attn")
        assert isinstance(block, WindowAttention)
        assert block.shift == 2
        block.shift = 0
        assert not torch.allclose(backbone(image)[-1], shifted, atol=1e-3)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 4)])
def test_merging_is_a_projection_of_padded_2x2_neighborhoods(size: tuple[int, int], stride: int) -> None:
    torch.manual_seed(0)
    merging = PatchMerging(3, stride)
    nn.init.normal_(merging.norm.weight)
    x = torch.randn(2, *size, 3)
    height, width = (-(-side // stride) for side in size)
    padded = F.pad(x, (0, 0, 0, 2, 0, 2)).permute(0, 3, 1, 2)
    with torch.no_grad():
        corners = F.unfold(padded, kernel_size=2, stride=stride)  # (B, C * 4, positions), rows of each 2x2 first
        corners = rearrange(corners, "b (c r s) n -> b n (s r c)", c=3, r=2)
        per_row = (padded.shape[-1] - 2) // stride + 1
        corners = corners.unflatten(1, (-1, per_row))[:, :height, :width]
        torch.testing.assert_close(merging(x), merging.reduction(merging.norm(corners)))


@pytest.mark.parametrize(
    ("name", "merge_strides", "parameters"),
    [  # iiwa/PAPER 2, ecfd/PAPER 8
        ("swin_small_patch4_window7_224.ms_in1k", (4, 2, 1, 1), 48_838_602),
        ("swin_base_patch4_window12_384.ms_in22k", (4, 2, 1, 1), 86_880_376),
        ("swin_large_patch4_window7_224.ms_in22k", (4, 2, 2, 2), 194_998_164),
    ],
)
def test_parameters_are_as_many_as_published(name: str, merge_strides: tuple[int, ...], parameters: int) -> None:
    with torch.device("meta"):
        backbone = create_backbone(name, pretrained=False, merge_strides=merge_strides)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters


@pytest.mark.parametrize("name", timm.list_models("swin_*", module="swin_transformer"))
def test_every_swin_of_timm_has_its_shape_here(name: str) -> None:
    with torch.device("meta"):
        ours = create_backbone(name, pretrained=False, output_norm=False)
        theirs = timm.create_model(name, pretrained=False, num_classes=0)
    expected = {k: t.shape for k, t in theirs.state_dict().items() if not k.startswith("norm.")}
    assert {TIMM.to_published(k): t.shape for k, t in ours.state_dict().items()} == expected


def test_output_norms_can_be_left_out() -> None:
    normalized, plain = _small(), _small(output_norm=False)
    plain.load_state_dict({k: t for k, t in normalized.state_dict().items() if not k.startswith("norms.")})
    with torch.no_grad():
        for i, (level, raw) in enumerate(zip(normalized(_image(50, 70)), plain(_image(50, 70)), strict=True)):
            norm = normalized.norms[i]
            torch.testing.assert_close(level, norm(raw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def test_stochastic_depth_rises_linearly_over_all_blocks() -> None:
    with torch.device("meta"):
        backbone = create_backbone("swin_large_patch4_window7_224", pretrained=False, drop_path_rate=0.3)
        without = create_backbone("swin_large_patch4_window7_224", pretrained=False)
    rates = [module.drop_prob for module in backbone.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.3 * i / 23 for i in range(1, 24)])
    assert not any(isinstance(module, DropPath) for module in without.modules())


def test_every_parameter_gets_a_gradient() -> None:
    backbone = _small().train()
    levels = backbone(_image(50, 70))
    sum((level * torch.randn_like(level)).sum() for level in levels).backward()  # pyright: ignore
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"merge_strides": (4, 2, 3, 1)}, "stride 1 or 2"), ({"depths": (1, 1)}, "differ in their number of stages")],
)
def test_impossible_options_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        create_backbone(_NAME, pretrained=False, **changes)


def test_a_size_that_nobody_has_is_refused() -> None:
    with pytest.raises(InputError, match="segcore has the Swin sizes tiny, small"):
        Swin("swin_huge_patch4_window7_224", pretrained=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_come_out_as_they_went_in(dtype: torch.dtype) -> None:
    backbone = _small()
    image = _image(50, 70)
    with torch.no_grad():
        expected = backbone(image)
        for level, other in zip(backbone.to(dtype)(image.to(dtype)), expected, strict=True):
            assert level.dtype == dtype
            torch.testing.assert_close(level.float(), other, rtol=0, atol=0.2 if dtype == torch.bfloat16 else 1e-4)


@pytest.mark.slow
def test_it_is_one_graph_whatever_the_size() -> None:
    backbone = _small(depths=(2, 1, 1, 1), merge_strides=(4, 2, 1, 1))
    compiled = torch.compile(backbone, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for size in ((32, 48), (50, 70)):
            for level, expected in zip(compiled(_image(*size)), backbone(_image(*size)), strict=True):
                torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-4)
