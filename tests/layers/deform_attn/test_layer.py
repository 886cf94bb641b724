"""Deformable attention as a layer: precision, masks, compile and what one query may depend on."""

from __future__ import annotations

import pytest
import torch

from segcore.layers.deform_attn.layer import DeformableAttention
from segcore.layers.deform_attn.points import reference_grid

SIZES = [(6, 8), (3, 4)]
ROWS = sum(height * width for height, width in SIZES)


def _layer(value_ratio: float = 1.0) -> DeformableAttention:
    torch.manual_seed(0)
    layer = DeformableAttention(24, levels=2, heads=3, points=4, value_ratio=value_ratio)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


def _inputs(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(batch, ROWS, 24, generator=generator)
    return query, reference_grid(SIZES), torch.randn(batch, ROWS, 24, generator=generator)


def test_a_new_layer_weighs_all_samples_alike_and_looks_in_all_directions() -> None:
    layer = DeformableAttention(16, levels=1, heads=4, points=2)
    offsets, weights = layer._places(torch.randn(1, 5, 16))
    torch.testing.assert_close(weights, torch.full_like(weights, 0.5))
    first = offsets[0, 0, :, 0, 0]  # (M, 2)
    expected = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    torch.testing.assert_close(first, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(offsets[0, 0, :, 0, 1], 2 * expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("value_ratio", [0.5, 1.0])
def test_an_image_gets_the_same_rows_alone_and_in_a_batch(value_ratio: float) -> None:
    layer, (query, reference, value) = _layer(value_ratio), _inputs()
    together = layer(query, reference, value, SIZES)
    assert together.shape == query.shape
    for i in range(2):
        alone = layer(query[i : i + 1], reference, value[i : i + 1], SIZES)
        torch.testing.assert_close(together[i : i + 1], alone)


def test_masked_values_count_as_zero() -> None:
    layer, (query, reference, value) = _layer(), _inputs()
    mask = torch.zeros(2, ROWS, dtype=torch.bool)
    mask[:, ::3] = True
    masked = layer(query, reference, value, SIZES, mask)
    changed = value.clone()
    changed[:, ::3] = 1e3
    torch.testing.assert_close(layer(query, reference, changed, SIZES, mask), masked)
    assert not torch.allclose(layer(query, reference, changed, SIZES), masked)


def test_double_precision_stays_double() -> None:
    layer, (query, reference, value) = _layer().double(), _inputs()
    exact = layer(query.double(), reference.double(), value.double(), SIZES)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(layer.float()(query, reference, value, SIZES).double(), exact, atol=1e-5, rtol=1e-5)


def test_autocast_stays_near_full_precision() -> None:
    layer, (query, reference, value) = _layer(), _inputs()
    exact = layer(query, reference, value, SIZES)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(query, reference, value, SIZES)
    assert half.dtype == torch.bfloat16
    assert float((half.float() - exact).detach().abs().max()) < 0.1 * float(exact.detach().abs().max())


def test_values_that_do_not_divide_into_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="20 channels do not divide into 3 heads"):
        DeformableAttention(20, levels=1, heads=3, points=4)


@pytest.mark.slow
def test_compiled_without_a_graph_break_it_equals_eager() -> None:
    layer, (query, reference, value) = _layer(), _inputs()
    compiled = torch.compile(layer, fullgraph=True)
    torch.testing.assert_close(compiled(query, reference, value, SIZES), layer(query, reference, value, SIZES))
