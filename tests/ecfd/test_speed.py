"""Every faster form of ECFD's decoder computes exactly what the plain one does."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ecfd import speed
from ecfd.fusion import PositionGrid, TokenMLP, to_maps, to_tokens
from ecfd.model import RCE, ECFDHead
from ecfd.speed import conv_of_resized
from segcore.layers.deform_attn.layer import DeformableAttention
from segcore.layers.deform_attn.points import reference_grid, reference_points
from segcore.layers.fuse import fuse_norms
from tests.ecfd.networks import VARIANTS, feature_maps, small_head

sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "baselines"))  # no package
from plain_ecfd import plain_head  # pyright: ignore[reportMissingImports]


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _plain_conv(maps: list[Tensor], weight: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    enlarged = [F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners) for x in maps]
    return F.conv2d(torch.cat(enlarged, dim=1), weight, padding=1)


side = st.integers(1, 9)


@settings(deadline=None, max_examples=60)
@given(height=side, width=side, taller=st.integers(1, 12), wider=st.integers(1, 12), align_corners=st.booleans())
def test_convolution_before_the_resize_equals_the_plain_order_at_any_size(
    height: int, width: int, taller: int, wider: int, align_corners: bool
) -> None:
    size = (height * taller + taller // 2, width * wider + wider // 3)  # crosses blocks, and is no whole multiple
    maps, weight = [_random(2, 3, height, width)], _random(4, 3, 3, 3, seed=1)
    fast = conv_of_resized(maps, weight, size, align_corners=align_corners)
    torch.testing.assert_close(fast, _plain_conv(maps, weight, size, align_corners), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("align_corners", [False, True])
def test_convolution_of_several_maps_has_the_gradients_of_the_plain_order(align_corners: bool) -> None:
    sizes, size = [(2, 3), (4, 5), (9, 11), (17, 40)], (17, 40)
    maps = [_random(2, 2 + i, *s, seed=i).requires_grad_() for i, s in enumerate(sizes)]
    weight = _random(6, sum(x.shape[1] for x in maps), 3, 3, seed=9).requires_grad_()
    fast, plain = (
        conv_of_resized(maps, weight, size, align_corners=align_corners),
        _plain_conv(maps, weight, size, align_corners),
    )
    torch.testing.assert_close(fast, plain, rtol=1e-6, atol=1e-6)
    grad = torch.randn_like(plain)
    for mine, published in zip(
        torch.autograd.grad(fast, [*maps, weight], grad), torch.autograd.grad(plain, [*maps, weight], grad), strict=True
    ):
        torch.testing.assert_close(mine, published, rtol=1e-5, atol=1e-5)


def test_small_enlargements_and_other_devices_take_the_plain_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_conv_before_resize", lambda *_: pytest.fail("products before the resize"))
    maps, weight = [_random(1, 2, 4, 6)], _random(3, 2, 3, 3, seed=1)
    for size in ((4, 6), (5, 9), (2, 40)):
        fast = conv_of_resized(maps, weight, size, align_corners=True)
        torch.testing.assert_close(fast, _plain_conv(maps, weight, size, True))


def test_folded_context_embedding_equals_its_two_published_steps() -> None:
    torch.manual_seed(0)
    rce = RCE((5, 6, 7), 4, 3).double()
    levels = [_random(2, c, h, w, seed=c).requires_grad_() for c, h, w in ((5, 9, 14), (6, 5, 7), (7, 3, 4))]
    embedded = [
        F.interpolate(embedding(x), size=(5, 7), mode="bilinear", align_corners=False)
        for embedding, x in zip(rce.embeddings, levels, strict=True)
    ]
    plain, fast = rce.fuse(torch.cat(embedded, dim=1)), rce(*levels)
    torch.testing.assert_close(fast, plain)
    inputs = [*levels, *rce.parameters()]
    grad = torch.randn_like(plain)
    for mine, published in zip(
        torch.autograd.grad(fast, inputs, grad), torch.autograd.grad(plain, inputs, grad), strict=True
    ):
        torch.testing.assert_close(mine, published)


def test_fused_projections_equal_two_linear_layers() -> None:
    layer = DeformableAttention(24, 2, 3, 4)
    nn.init.normal_(layer.sampling_offsets.weight)
    nn.init.normal_(layer.attention_weights.weight)
    query = torch.randn(2, 7, 24)
    offsets, weights = layer._places(query)
    torch.testing.assert_close(offsets.flatten(2), layer.sampling_offsets(query))
    logits = layer.attention_weights(query).view(2, 7, 3, 8)
    torch.testing.assert_close(weights.flatten(3), logits.softmax(dim=-1))


def test_maps_of_tokens_are_views_and_the_mlp_equals_one_convolution_per_copied_map() -> None:
    sizes = [(6, 10), (3, 5), (2, 3)]
    mlp = TokenMLP(8, 0.5)
    tokens = torch.randn(2, sum(h * w for h, w in sizes), 8)
    maps = to_maps(tokens, sizes)
    assert all(x.untyped_storage().data_ptr() == tokens.untyped_storage().data_ptr() for x in maps)
    torch.testing.assert_close(to_tokens(maps), tokens, rtol=0, atol=0)
    copies = [x.contiguous() for x in to_maps(mlp.fc1(tokens), sizes)]
    plain = torch.cat([mlp.conv(x).flatten(2).transpose(1, 2) for x in copies], dim=1)
    torch.testing.assert_close(mlp(tokens, sizes), mlp.fc2(F.gelu(plain)))


def test_reference_points_are_computed_once_and_serve_training_after_a_test() -> None:
    sizes = ((5, 7), (3, 4))
    with torch.inference_mode():
        first = reference_points(sizes, device=torch.device("cpu"))
    assert reference_points(sizes, device=torch.device("cpu")) is first
    assert not first.is_inference()
    torch.testing.assert_close(first, reference_grid(sizes), rtol=0, atol=0)


def test_the_position_grid_is_kept_in_evaluation_until_it_changes() -> None:
    position = PositionGrid((6, 9), 4).eval()
    nn.init.normal_(position.embedding)
    rows = position.embedding[:, 1:].view(1, 6, 9, 4).permute(0, 3, 1, 2)
    plain = F.interpolate(rows, size=(3, 5), mode="bicubic").flatten(2).transpose(1, 2)
    torch.testing.assert_close(position(3, 5), plain)
    with torch.inference_mode():
        first = position(3, 5)
        assert position(3, 5) is first
        torch.testing.assert_close(first, plain)
        assert position(6, 9).shape == (1, 54, 4)
    with torch.no_grad():
        position.embedding.mul_(2)
        torch.testing.assert_close(position(3, 5), 2 * plain)
        for twin in (copy.deepcopy(position), pickle.loads(pickle.dumps(position))):
            torch.testing.assert_close(twin(3, 5), 2 * plain)
    assert position.train()(3, 5).requires_grad


@pytest.mark.parametrize("size", [(24, 40), (25, 33), (8, 8)])
def test_the_whole_head_equals_the_straightforward_form(size: tuple[int, int]) -> None:
    head = small_head(depth=3).double()
    assert isinstance(head, ECFDHead)
    features = [x.double().requires_grad_() for x in feature_maps(*size)]
    fast, plain = head(features), plain_head(head, features)
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-6)
    inputs = [*features, *head.parameters()]
    grad = torch.randn(plain.shape, generator=torch.Generator().manual_seed(0)).double()
    for mine, published in zip(
        torch.autograd.grad(fast, inputs, grad), torch.autograd.grad(plain, inputs, grad), strict=True
    ):
        torch.testing.assert_close(mine, published, rtol=1e-4, atol=1e-4 * float(published.abs().max()) + 1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_folding_removes_every_norm_of_a_head_and_keeps_its_logits(variant: str) -> None:
    head = small_head(variant)  # pyright: ignore[reportArgumentType]
    features = feature_maps(head=variant)  # pyright: ignore[reportArgumentType]
    if variant in ("patch4", "general"):
        assert not isinstance(head.get_submodule("rce"), RCE)
    folded = fuse_norms(head)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        expected = head(features)
        assert (folded(features) - expected).abs().max() < 1e-4 * expected.std()
