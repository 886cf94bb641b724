"""Windows, self-IIWA and cross-IIWA: what holds for any weights."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iiwa.attention import (
    CrossIIWA,
    Memory,
    SelfIIWA,
    match,
    pad_to_windows,
    prepare_memory,
    sine_position,
    spread_tokens,
    to_windows,
    window_grid,
    window_means,
)
from segcore.errors import InputError
from tests.iiwa.networks import noise

CPU = torch.device("cpu")


@pytest.mark.parametrize("window", [(4, 4), (4, 8), (3, 5)])
def test_windows_are_numbered_row_by_row_and_padded_at_bottom_and_right(window: tuple[int, int]) -> None:
    x = noise(2, 7, 11, 4)
    padded = pad_to_windows(x, window)
    rows, columns = window_grid(7, 11, window)
    windows = to_windows(padded, window)
    assert windows.shape == (2, rows * columns, window[0] * window[1], 4)
    torch.testing.assert_close(padded[:, :7, :11], x, rtol=0, atol=0)
    assert not padded[:, 7:].any()
    assert not padded[:, :, 11:].any()
    second = padded[:, : window[0], window[1] : 2 * window[1]].flatten(1, 2)
    torch.testing.assert_close(windows[:, 1], second, rtol=0, atol=0)
    torch.testing.assert_close(window_means(padded, window), windows.mean(dim=2))


def test_complete_windows_are_not_copied() -> None:
    x = noise(1, 8, 8, 4)
    assert pad_to_windows(x, (4, 4)) is x


def test_spread_tokens_meet_the_corners_of_the_map() -> None:
    tokens = noise(2, 6, 4)
    spread = spread_tokens(tokens, (2, 3), (8, 12))
    assert spread.shape == (2, 8, 12, 4)
    torch.testing.assert_close(spread[:, 0, 0], tokens[:, 0])
    torch.testing.assert_close(spread[:, -1, -1], tokens[:, -1])


def test_sine_positions_follow_their_formula() -> None:
    table = sine_position(3, 5, 8, CPU).view(3, 5, 8)
    y = 2 / (3 + 1e-5) * 2 * math.pi  # second row
    expected = [math.sin(y), math.cos(y), math.sin(y / 100), math.cos(y / 100)]
    torch.testing.assert_close(table[1, 2, :4], torch.tensor(expected))
    torch.testing.assert_close(table[0, :, 4:], table[2, :, 4:])  # the second half tells the column only


def _written_out(block: SelfIIWA, x: Tensor) -> Tensor:
    """Self-IIWA in the words of iiwa/PAPER 3.3, one window and head at a time."""
    wh, ww = block.window
    batch, height, width, channels = x.shape
    d = channels // block.heads
    bias = block.bias.get_bias()[0]
    out = torch.zeros_like(x)
    for b in range(batch):
        for top in range(0, height, wh):
            for left in range(0, width, ww):
                tokens = x[b, top : top + wh, left : left + ww].reshape(-1, channels)
                q, k, v = F.linear(tokens, block.intra_qkv.weight, block.intra_qkv.bias).split(channels, dim=1)
                for m in range(block.heads):
                    part = slice(m * d, (m + 1) * d)
                    scores = (q[:, part] * d**-0.5 @ k[:, part].T + bias[m]).softmax(dim=1)
                    out[b, top : top + wh, left : left + ww, part] = (scores @ v[:, part]).view(wh, ww, d)
    return out


def test_intra_window_attention_equals_the_definition_window_by_window() -> None:
    torch.manual_seed(0)
    block = SelfIIWA(16, (2, 4), 4).eval()
    nn.init.normal_(block.bias.relative_position_bias_table)
    x = noise(2, 4, 8, 16)
    with torch.no_grad():
        torch.testing.assert_close(block._intra(x, (2, 2)), _written_out(block, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block", [SelfIIWA(48, (4, 8), 8), CrossIIWA(48, (4, 8), 8)])
def test_number_of_parameters_is_the_released_one(block: nn.Module) -> None:
    d, heads, (wh, ww) = 48, 8, (4, 8)
    expected = 16 * d**2 + 21 * d + heads * (2 * wh - 1) * (2 * ww - 1)
    assert sum(p.numel() for p in block.parameters()) == expected


def test_initial_position_tables_are_random_for_self_and_zero_for_cross_attention() -> None:
    torch.manual_seed(0)
    table = SelfIIWA(64, (8, 8), 8).bias.relative_position_bias_table.detach()
    assert float(table.std()) == pytest.approx(0.02, rel=0.05)
    assert not CrossIIWA(64, (8, 8), 8).bias.relative_position_bias_table.any()


def _memory(batch: int = 2, channels: int = 16) -> Memory:
    maps = [noise(batch, 16, 12, channels, seed=1), noise(batch, 7, 6, channels, seed=2)]
    return prepare_memory(maps, (4, 4))


def test_memory_holds_the_windows_of_all_levels_fine_to_coarse() -> None:
    memory = _memory()
    assert memory.windows.shape == (2, 12 + 4, 16, 16)
    torch.testing.assert_close(memory.tokens, memory.windows.mean(dim=2))
    assert not memory.windows[:, -1, 12:].any()  # the last row of the padded coarse level


def test_every_query_window_gets_a_memory_window_of_its_own_and_the_best_sum() -> None:
    memory = _memory()
    tokens = noise(2, 5, 16, seed=3)
    matched = match(tokens, memory)
    for b in range(2):
        chosen = [int((memory.tokens[b] == token).all(dim=1).nonzero().item()) for token in matched.tokens[b]]
        assert len(set(chosen)) == 5
        similarity = tokens[b] @ memory.tokens[b].T
        total = float(similarity[torch.arange(5), chosen].sum())
        order = torch.Generator().manual_seed(0)
        others = (similarity[torch.arange(5), torch.randperm(16, generator=order)[:5]].sum() for _ in range(200))
        assert total >= max(float(other) for other in others)
        for i in range(5):
            torch.testing.assert_close(matched.windows[b, i], memory.windows[b, chosen[i]], rtol=0, atol=0)


def test_the_match_ignores_autocast_and_passes_no_gradient_to_the_query() -> None:
    memory = _memory()
    tokens = noise(2, 5, 16, seed=3).requires_grad_()
    plain = match(tokens, memory)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(match(tokens, memory).tokens, plain.tokens)
    assert not plain.tokens.requires_grad


def test_gradients_reach_the_matched_memory_windows_only() -> None:
    level = noise(1, 8, 8, 16).requires_grad_()
    matched = match(noise(1, 2, 16, seed=1), prepare_memory([level], (4, 4)))
    matched.windows.sum().backward()
    assert level.grad is not None
    touched = to_windows(level.grad, (4, 4)).flatten(2).any(dim=2)
    assert int(touched.sum()) == 2


def test_more_query_than_memory_windows_are_refused() -> None:
    block = CrossIIWA(16, (4, 4), 4)
    with pytest.raises(InputError, match=r"6 .*4 memory windows"):
        block(noise(1, 8, 12, 16), prepare_memory([noise(1, 8, 8, 16)], (4, 4)))


def test_images_of_a_batch_are_matched_by_themselves() -> None:
    torch.manual_seed(0)
    block = CrossIIWA(16, (4, 4), 4).eval()
    query = noise(2, 7, 9, 16, seed=4)
    memory = _memory()
    with torch.no_grad():
        together = block(query, memory)
        swapped = block(query.flip(0), Memory(*(part.flip(0) for part in memory)))
    torch.testing.assert_close(swapped.flip(0), together, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [18, 20])
def test_channels_that_heads_or_positions_do_not_divide_are_refused(channels: int) -> None:
    with pytest.raises(ValueError, match="multiple of 4 and of 8 heads"):
        SelfIIWA(channels, (4, 4), 8)
