"""`segcore check`: whole files say so, damaged ones give exit code 2 and one sentence each (issue 18, point 3)."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import safetensors.torch
import torch

from segcore.commands.main import main
from segcore.weights.files import save_weights
from segcore.weights.states import save_state
from tests.weights.test_files import META


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """One file of each kind, all whole."""
    tensors = {"weight": torch.linspace(0, 1, 500)}
    paths = {name: tmp_path / name for name in ("w.safetensors", "state-00000001.pt", "p.pth", "old.safetensors")}
    save_weights(paths["w.safetensors"], tensors, META)
    save_state(paths["state-00000001.pt"], {"model": tensors})
    torch.save({"state_dict": tensors}, paths["p.pth"])
    safetensors.torch.save_file(tensors, paths["old.safetensors"], {"segcore": json.dumps(asdict(META))})
    return paths


def test_whole_files_say_what_they_were_compared_with(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *map(str, files.values())]) == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    said = {Path(path).name: text for path, text in lines.items()}
    assert said["w.safetensors"].startswith("whole, sha256 ")
    assert said["state-00000001.pt"].startswith("whole, sha256 ")
    assert said["p.pth"] == "whole, crc32 of every record"
    assert said["old.safetensors"].startswith("readable; it carries no checksum")


def test_every_damaged_file_is_one_sentence_and_the_others_are_still_checked(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("w.safetensors", "state-00000001.pt", "p.pth"):
        data = bytearray(files[name].read_bytes())
        data[len(data) // 2] ^= 4
        files[name].write_bytes(data)
    absent = tmp_path / "absent.pt"
    assert main(["check", str(absent), *map(str, files.values())]) == 2
    printed = capsys.readouterr()
    assert [Path(line.split(": ")[0]).name for line in printed.out.splitlines()] == ["old.safetensors"]
    faults = printed.err.splitlines()
    assert len(faults) == 4
    assert f"{absent} does not exist" in faults[0]
    for name, fault in zip(("w.safetensors", "state-00000001.pt", "p.pth"), faults[1:], strict=True):
        assert f"{files[name]} is" in fault
        assert "damaged" in fault


def test_a_file_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 2
    assert "at least one file" in capsys.readouterr().err
