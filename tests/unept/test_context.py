"""Attention of UN-EPT: over the batch, over one key, over pixels; positions and reference points."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from segcore.layers.deform_attn.points import reference_grid, reference_points
from tests.unept.networks import random_image, small_options
from unept.context import (
    Pyramid,
    PyramidAttention,
    QuerySelfAttention,
    level_positions,
    sine_positions,
)

WIDTH, HEADS = 16, 4
SIZES = ((3, 4), (2, 2), (1, 1))
ROWS = sum(height * width for height, width in SIZES)


def _pair(kind: str) -> tuple[QuerySelfAttention, nn.MultiheadAttention]:
    """Return ours and torch's attention with the same weights, without dropout."""
    torch.manual_seed(0)
    ours = QuerySelfAttention(small_options(width=WIDTH, heads=HEADS, dropout=0.0, self_attention=kind))
    theirs = nn.MultiheadAttention(WIDTH, HEADS)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def test_in_training_the_first_axis_of_images_and_queries_is_the_sequence() -> None:
    ours, theirs = _pair("batch")
    x = random_image(3, 10, WIDTH)
    torch.testing.assert_close(ours.train()(x), theirs(x, x, x)[0])


@pytest.mark.parametrize("kind", ["batch", "value"])
def test_in_evaluation_every_image_is_its_own_sequence(kind: str) -> None:
    ours, theirs = _pair(kind)
    x = random_image(3, 10, WIDTH)
    alone = torch.cat([theirs(image[None], image[None], image[None])[0] for image in x])
    torch.testing.assert_close(ours.eval()(x), alone)
    if kind == "value":
        torch.testing.assert_close(ours.train()(x), alone)


@pytest.mark.parametrize("is_training", [True, False])
def test_over_pixels_the_queries_of_an_image_are_the_sequence(is_training: bool) -> None:
    ours, theirs = _pair("pixels")
    x = random_image(3, 10, WIDTH)
    sequence = x.transpose(0, 1)
    expected = theirs(sequence, sequence, sequence)[0].transpose(0, 1)
    torch.testing.assert_close(ours.train(is_training)(x), expected)


def test_the_value_form_gives_a_gradient_to_the_whole_projection() -> None:
    ours, _ = _pair("value")
    ours.train()(random_image(2, 5, WIDTH)).sum().backward()
    for parameter in ours.parameters():
        assert parameter.grad is not None
    assert not ours.in_proj_weight.grad[: 2 * WIDTH].any()  # pyright: ignore[reportOptionalSubscript]


def test_attention_to_the_pyramid_is_the_shared_layer_at_the_centers_of_the_queries() -> None:
    torch.manual_seed(0)
    attention = PyramidAttention(small_options(width=WIDTH, heads=HEADS, levels=len(SIZES)))
    query, tokens = random_image(2, 20, WIDTH), random_image(2, ROWS, WIDTH, seed=1)
    expected = attention.deform(query, reference_grid([(4, 5)]), tokens, SIZES)
    torch.testing.assert_close(attention(query, ((4, 5),), Pyramid(tokens, SIZES)), expected, rtol=0, atol=0)
    assert attention.deform.levels == len(SIZES)


def test_sine_positions_count_from_one_and_alternate_sine_and_cosine() -> None:
    height, width, channels = 3, 5, 8
    ours = sine_positions(height, width, channels).view(height, width, channels)
    for row in range(height):
        for column in range(width):
            expected = []
            for place, length in ((row + 1, height), (column + 1, width)):
                angle = 2 * math.pi * place / (length + 1e-6)
                for i in range(channels // 2):
                    wave = math.sin if i % 2 == 0 else math.cos
                    expected.append(wave(angle / 10000 ** (2 * (i // 2) / (channels // 2))))
            assert ours[row, column].tolist() == pytest.approx(expected, abs=1e-6)


def test_positions_first_computed_in_a_test_serve_training_too() -> None:
    device = torch.device("cpu")
    with torch.inference_mode():
        first = level_positions(SIZES, 12, device), reference_points(SIZES, device=device)
    second = level_positions(SIZES, 12, device), reference_points(SIZES, device=device)
    for one, other in zip(first, second, strict=True):
        assert one is other  # kept
        assert not one.is_inference()
    assert level_positions(SIZES, 12, device).shape == (ROWS, 12)
    assert level_positions(((3, 4),), 12, device).shape == (12, 12)
