"""Training states: whole, newest first, pruned, never resumed when damaged."""

from __future__ import annotations

import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from segcore.errors import InputError
from segcore.weights.files import read_checkpoint
from segcore.weights.states import latest_state, load_state, prune_states, save_state, state_path
from segcore.weights.torch_files import STATE_FORMAT


def _flip(path: Path, place: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def _save_like_an_older_version(path: Path, state: dict[str, Any]) -> None:
    torch.save({"format": STATE_FORMAT, "state": state}, path)


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
    found = latest_state(tmp_path)
    assert found is not None
    assert found == (newest, {"iteration": 100_000_000})
    newest.write_bytes(newest.read_bytes()[:-200])
    with caplog.at_level(logging.WARNING, logger="segcore"):
        found = latest_state(tmp_path)
    assert found is not None
    assert found == (state_path(tmp_path, 1000), {"iteration": 1000})
    assert f"{newest} is truncated or damaged" in caplog.text


@pytest.mark.parametrize("is_old", [False, True])
def test_one_changed_bit_anywhere_makes_a_state_damaged(tmp_path: Path, is_old: bool) -> None:
    path, state = state_path(tmp_path, 1), {"weight": torch.linspace(0, 1, 300), "iteration": 1}
    (_save_like_an_older_version if is_old else save_state)(path, state)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole)
        _flip(path, place, bit=place % 8)
        try:
            loaded = load_state(path)
        except InputError:
            continue
        # a byte that nobody reads: padding, a date, the first letters of the line with the checksum
        assert torch.equal(loaded["weight"], state["weight"]), place
        assert loaded["iteration"] == 1
        assert is_old or place > len(whole) - 82, place


def test_states_of_older_versions_load_without_a_checksum_line(tmp_path: Path) -> None:
    state = {"model": {"weight": torch.rand(3)}, "iteration": 1}
    _save_like_an_older_version(state_path(tmp_path, 1), state)
    found = latest_state(tmp_path)
    assert found is not None
    torch.testing.assert_close(found.content["model"]["weight"], state["model"]["weight"], rtol=0, atol=0)


@pytest.mark.parametrize("change", ["encrypted", "method", "name"])
def test_states_that_a_zip_reader_stumbles_over_are_passed_over(tmp_path: Path, change: str) -> None:
    for iteration in (1, 2):
        _save_like_an_older_version(state_path(tmp_path, iteration), {"iteration": iteration})
    newest = state_path(tmp_path, 2)
    with zipfile.ZipFile(newest) as archive:
        central = archive.start_dir
    if change == "encrypted":  # RuntimeError of zipfile
        _flip(newest, central + 8)
    elif change == "method":  # NotImplementedError of zipfile
        _flip(newest, central + 10, bit=6)
    else:  # UnicodeDecodeError of zipfile: the name is said to be UTF-8 and is not
        _flip(newest, central + 9, bit=3)
        _flip(newest, central + 46, bit=7)
    found = latest_state(tmp_path)
    assert found is not None
    assert found.path == state_path(tmp_path, 1)


def test_a_whole_archive_that_torch_refuses_is_passed_over(tmp_path: Path) -> None:
    save_state(state_path(tmp_path, 1), {"iteration": 1})
    with zipfile.ZipFile(state_path(tmp_path, 2), "w") as archive:
        archive.writestr("archive/data.pkl", b"no pickle")
    found = latest_state(tmp_path)
    assert found is not None
    assert found.path == state_path(tmp_path, 1)


def test_where_every_state_is_damaged_all_are_listed(tmp_path: Path) -> None:
    for iteration in (1, 2):
        save_state(state_path(tmp_path, iteration), {"weight": torch.zeros(1000)})
        _flip(state_path(tmp_path, iteration), 2000)
    with pytest.raises(InputError, match=r"every training state in .* is damaged \(state-00000001\.pt, state-00000002"):
        latest_state(tmp_path)


def test_pruning_keeps_the_newest_states_and_removes_unfinished_files(tmp_path: Path) -> None:
    for iteration in (1, 2, 10):
        save_state(state_path(tmp_path, iteration), {})
    for name in (".state-00000011.pt.123.tmp", ".last.safetensors.123.0a1b2c3d.tmp"):
        (tmp_path / name).write_text("killed")
    (tmp_path / "best.safetensors").write_text("kept")
    prune_states(tmp_path, 2, 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.safetensors",
        "state-00000002.pt",
        "state-00000010.pt",
    ]


def test_pruning_counts_no_damaged_state_after_the_one_just_written(tmp_path: Path) -> None:
    for iteration in (100, 150, 200, 300):
        save_state(state_path(tmp_path, iteration), {})
    prune_states(tmp_path, 1, 150)  # 200 and 300 were damaged: the run went on from 100
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "state-00000150.pt",
        "state-00000200.pt",
        "state-00000300.pt",
    ]


def test_pruning_leaves_files_of_others_alone(tmp_path: Path) -> None:
    """Issue 18, point 5: foreign files, and those of a `report` running beside."""
    others = [".mine.tmp", ".report.html.77.0a1b2c3d.tmp", ".state-notes.tmp", ".state-00000001.pt.txt.tmp"]
    for name in others:
        (tmp_path / name).write_text("kept")
    (tmp_path / ".state-00000001.pt.5.tmp").mkdir()
    (tmp_path / ".state-00000002.pt.5.tmp").symlink_to(tmp_path / ".mine.tmp")
    prune_states(tmp_path, 1, 1)
    assert sorted(os.listdir(tmp_path)) == sorted([*others, ".state-00000001.pt.5.tmp"])
