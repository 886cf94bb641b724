"""Recipes, metadata, logs, states and class files with any content: a command does its work or says one sentence.

A few run by default; `nox -s faults` makes 800.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from segcore import build
from segcore.commands import convert, main, recipes
from segcore.commands.train import train_command
from segcore.data.folder import read_classes
from segcore.errors import InputError
from segcore.report import build as report_build
from segcore.training.loop import train
from segcore.weights.checksums import BLANK, ENTRY, sealed
from segcore.weights.header import META_ENTRY
from segcore.weights.states import load_state, save_state, state_path
from tests.faults.hostile import VALUES, bounded, changed, hostile_json
from tests.tiny_paper import PAPER
from tests.training.test_loop import recipe

SMALL = (
    *("--data.dataset", "toy", "--data.image-size", "32", "48", "--data.num-images", "4", "2", "--data.batch", "2"),
    *("--data.workers", "0", "--augment.scale", "48", "32", "--augment.crop", "32", "32"),
    *("--augment.ratio", "0.5", "2", "--augment.keep-ratio", "true", "--evaluate.keep-ratio", "true"),
    *("--evaluate.scale", "48", "32", "--evaluate.ratios", "1", "--evaluate.crop", "32", "32"),
    *("--evaluate.stride", "32", "32", "--schedule.iterations", "2", "--schedule.epochs", "0", "--run.device", "cpu"),
    *("--evaluate.resize-divisor", "0", "--evaluate.pad-divisor", "0", "--model.width", "4", "--run.compile", "false"),
    *("--run.wandb", "false", "--run.log-interval", "1", "--run.save-interval", "1"),
)
"""What decides how much a run takes: options of a recipe may ask for more memory and time than there is."""
Said = Callable[[], str]


def seeds(quick: int, total: int) -> list[Any]:
    return [seed if seed < quick else pytest.param(seed, marks=pytest.mark.faults) for seed in range(total)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a finished run of the tiny paper, which all commands take for an installed one."""
    folder = tmp_path_factory.mktemp("hostile") / "run"
    train(PAPER, "toy", recipe(folder))
    with pytest.MonkeyPatch.context() as patch:
        for module in (build, convert, recipes, report_build):
            patch.setattr(module, "load_paper", lambda _: PAPER)
        yield folder


@pytest.fixture
def part(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    shutil.copytree(run, tmp_path / "part")
    return tmp_path / "part"


def ends_well(capsys: pytest.CaptureFixture[str], command: Callable[[list[str]], int], *words: str) -> int:
    """Run a command; it must return 0, or 2 and one sentence on the last line."""
    capsys.readouterr()
    with bounded():
        try:
            code = command(list(words))
        except SystemExit as error:  # of the library that reads options
            code = error.code
    printed = capsys.readouterr().err
    assert code in (0, 2)
    assert "Traceback" not in printed
    assert code == 0 or printed.strip()
    assert "\x1b" not in printed
    assert isinstance(code, int)
    return code


@pytest.mark.parametrize("seed", seeds(10, 150))
def test_recipes(part: Path, seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = part / "recipe.json"
    path.write_bytes(hostile_json(json.loads(path.read_bytes()), seed))
    words = (*SMALL, "--work-dir", str(tmp_path / "new"), "--run.data", "")
    ends_well(capsys, train_command(PAPER), str(path), *words)
    ends_well(capsys, main.main, "report", str(part), "--keep-gallery")
    assert not (tmp_path.parent / "escaped").exists()


@pytest.mark.parametrize("seed", seeds(10, 150))
def test_metadata_of_weights(part: Path, seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = part / "best.safetensors"
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
        meta = json.loads(file.metadata()[META_ENTRY])
    text = hostile_json(meta, seed).decode("utf-8", "replace")
    parts = sealed(safetensors.torch.save(tensors, {META_ENTRY: text, ENTRY: BLANK}))
    path.write_bytes(b"".join(parts))
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), np.zeros((24, 32, 3), np.uint8))
    ends_well(capsys, main.main, "predict", str(path), str(image), "--out", str(tmp_path / "out"))
    ends_well(capsys, main.main, "test", str(path), "--data.workers", "0")
    ends_well(capsys, main.main, "convert", str(path), str(tmp_path / "out.pth"))
    ends_well(capsys, main.main, "report", str(part))


@pytest.mark.parametrize("seed", seeds(10, 150))
def test_logs(part: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    path = part / "log.jsonl"
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    place = int(np.random.default_rng(seed).integers(len(lines)))
    texts = [json.dumps(line).encode() for line in lines]
    texts[place] = hostile_json(lines[place], seed)
    path.write_bytes(b"\n".join(texts) + b"\n")
    ends_well(capsys, main.main, "report", str(part), "--keep-gallery")
    words = ("toy", *SMALL, "--work-dir", str(part), "--resume", "--run.save-interval", "1", "--data.batch", "4")
    assert ends_well(capsys, train_command(PAPER), *words) == 0


@pytest.mark.parametrize("seed", seeds(10, 150))
def test_states(part: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(seed)
    path = state_path(part, 1)
    state_path(part, 2).unlink()
    state = load_state(path)
    tensors = (torch.zeros(3), torch.zeros(2, 2, dtype=torch.int32), torch.tensor(1.0), torch.zeros(0))
    save_state(path, changed(state, rng, (*VALUES, *tensors)))
    words = ("toy", *SMALL, "--work-dir", str(part), "--resume", "--data.batch", "4")
    ends_well(capsys, train_command(PAPER), *words)


@pytest.mark.parametrize("seed", seeds(20, 200))
def test_class_files(tmp_path: Path, seed: int) -> None:
    path = tmp_path / ("classes.json" if seed % 4 else "classes.txt")
    document = {"classes": ["road", "car"], "palette": [[1, 2, 3], [4, 5, 6]]}
    path.write_bytes(hostile_json(document, seed))
    with bounded(), suppress(InputError):
        table = read_classes(path)
        assert len(table.names) == len(table.palette)
        assert "\n" not in "".join(table.names)
