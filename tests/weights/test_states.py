"""Training states: whole, newest first, pruned."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from segcore.errors import InputError
from segcore.weights.files import read_checkpoint
from segcore.weights.states import latest_state, load_state, prune_states, save_state, state_path


def test_a_state_survives_the_file(tmp_path: Path) -> None:
    state = {"model": {"weight": torch.rand(3)}, "rng": [1, 2**70], "nested": {"none": None, "text": "x"}, "best": -1.0}
    save_state(tmp_path / "state-00000001.pt", state)
    loaded = load_state(tmp_path / "state-00000001.pt")
    torch.testing.assert_close(loaded["model"]["weight"], state["model"]["weight"], rtol=0, atol=0)
    assert {key: loaded[key] for key in ("rng", "nested", "best")} == {
        key: state[key] for key in ("rng", "nested", "best")
    }


def test_a_state_and_a_checkpoint_are_not_mistaken_for_each_other(tmp_path: Path) -> None:
    save_state(tmp_path / "s.pt", {"model": {}})
    with pytest.raises(InputError, match=r"s\.pt is a training state"):
        read_checkpoint(tmp_path / "s.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "p.pth")
    with pytest.raises(InputError, match=r"p\.pth is no training state"):
        load_state(tmp_path / "p.pth")


def test_the_latest_state_is_the_newest_whole_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert latest_state(tmp_path) is None
    for iteration in (900, 1000, 100_000_000):
        save_state(state_path(tmp_path, iteration), {"iteration": iteration})
    newest = state_path(tmp_path, 100_000_000)
    assert latest_state(tmp_path) == newest
    newest.write_bytes(newest.read_bytes()[:-20])
    with caplog.at_level(logging.WARNING, logger="segcore"):
        assert latest_state(tmp_path) == state_path(tmp_path, 1000)
    assert f"{newest} is damaged" in caplog.text


def test_a_flipped_bit_makes_a_state_damaged(tmp_path: Path) -> None:
    path = state_path(tmp_path, 1)
    save_state(path, {"weight": torch.zeros(1000)})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert latest_state(tmp_path) is None


def test_pruning_keeps_the_newest_states_and_removes_unfinished_files(tmp_path: Path) -> None:
    for iteration in (1, 2, 10):
        save_state(state_path(tmp_path, iteration), {})
    (tmp_path / ".state-00000011.pt.123.tmp").write_text("killed")
    (tmp_path / "best.safetensors").write_text("kept")
    prune_states(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.safetensors",
        "state-00000002.pt",
        "state-00000010.pt",
    ]
