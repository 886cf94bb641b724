"""The neck's fusions and their cascade: what holds for any weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from iiwa.attention import to_windows
from iiwa.neck import CascadeNeck, CrossFusion, PlainFusion
from tests.iiwa.networks import TINY, noise


@pytest.mark.parametrize("channels", [18, 20])
def test_channels_that_heads_or_positions_do_not_divide_are_refused(channels: int) -> None:
    with pytest.raises(ValueError, match="multiple of 4 and of 8 heads"):
        CrossFusion(8, channels, 8, (4, 4), (8, 8))


def test_fusion_pairs_windows_of_the_same_place_without_a_softmax() -> None:
    torch.manual_seed(0)
    block = PlainFusion(24, 16, 2, (2, 3), (4, 6)).eval()
    key, query = noise(1, 4, 3, 24), noise(1, 8, 6, 16)
    with torch.no_grad():
        ours = block._pair_windows(to_windows(query, (4, 6)), to_windows(key, (2, 3)), (2, 1), scale=0.5)
        q, k, v = block.intra_q(query[0, 4:]), block.intra_k(key[0, 2:]), block.intra_v(key[0, 2:])  # lower windows
        second_head = (q[..., 8:].reshape(-1, 8) * 0.5 @ k[..., 8:].reshape(-1, 8).T) @ v[..., 8:].reshape(-1, 8)
    torch.testing.assert_close(ours[0, 4:, :, 8:], second_head.view(4, 6, 8), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [PlainFusion, CrossFusion])
@pytest.mark.parametrize(("deep", "shallow"), [((4, 5), (9, 10)), ((5, 5), (9, 9)), ((1, 1), (2, 1))])
def test_fusion_takes_levels_that_round_up_or_down(
    kind: type[PlainFusion | CrossFusion], deep: tuple[int, int], shallow: tuple[int, int]
) -> None:
    block = kind(32, 16, 4, (4, 4), (8, 8)).eval()
    with torch.no_grad():
        out = block(noise(2, 32, *deep), noise(2, 16, *shallow, seed=1))
    assert out.shape == (2, 16, *shallow)
    assert out.isfinite().all()


def test_fusion_stays_finite_in_half_precision_whatever_the_size_of_its_input() -> None:
    torch.manual_seed(0)
    block = CrossFusion(32, 16, 4, (4, 4), (8, 8)).eval()
    deep, shallow = 200 * noise(1, 32, 8, 8), 200 * noise(1, 16, 16, 16, seed=1)
    with torch.no_grad():
        expected = block(deep, shallow)
        with torch.autocast("cpu", dtype=torch.float16):
            half = block(deep, shallow)
    assert half.isfinite().all()
    assert float((half - expected).abs().mean()) < 0.05 * float(expected.std())


def test_number_of_fusion_parameters_and_their_start_are_the_released_ones() -> None:
    torch.manual_seed(0)
    block = CrossFusion(512, 256, 8, (4, 4), (4, 4))
    assert sum(p.numel() for p in block.parameters()) == 15 * 256**2 + 21 * 256
    assert float(block.intra_k.weight.detach().std()) == pytest.approx((2 / (512 + 256)) ** 0.5, rel=0.02)
    assert float(block.key_pool.weight.detach().std()) == pytest.approx((2 / 512) ** 0.5, rel=0.02)
    assert not any(m.bias.any() for m in block.modules() if isinstance(m, nn.Linear))


def test_a_second_round_of_the_cascade_starts_from_the_first_ones_levels() -> None:
    torch.manual_seed(0)
    twice = CascadeNeck((8, 16, 32, 64), (4, 8, 8, 8), replace(TINY, fusion_rounds=2)).eval()
    levels = [noise(1, 8, 16, 16), noise(1, 16, 8, 8), noise(1, 32, 8, 8), noise(1, 64, 8, 8)]
    with torch.no_grad():
        y1, y2, y3 = twice(levels)
        first = twice.fuse3[0](levels[3], levels[2])
        expected = twice.fuse3[1](levels[3], first)
        torch.testing.assert_close(y3, expected)
        middle = twice.fuse2[1](expected, twice.fuse2[0](first, levels[1]))
        torch.testing.assert_close(y2, middle)
    assert y1.shape == levels[0].shape
