"""Command lines of any words: a request, or one sentence and exit code 2; a run of the tiny paper, too (issue 18).

A few run by default; `nox -s faults` makes 500.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.commands import main
from segcore.commands.parsing import parse_recipe
from segcore.commands.predict import PredictOptions
from segcore.commands.running import run_guarded
from segcore.commands.test import TestOptions
from segcore.commands.train import train_command
from segcore.paper import Paper, load_paper
from tests.faults.hostile import bounded
from tests.faults.test_hostile_files import SMALL
from tests.tiny_paper import PAPER as TINY

PAPERS = ("cgrseg", "ecfd", "iiwa", "memorynet", "unept")
WORDS = (
    *("", "-", "--", "---", "-1", "0", "1", "1e400", "-inf", "nan", "1" * 400, "2147483648", "0x10", "1_000", "true"),
    *("x" * 300, "../..", "/", "/dev/null", "/proc/self/mem", "~", "$HOME", "a=b", "=", "a=1e400", "[/b]", "\x1b[31m"),
    *("é", "\udcff", "None", "()", "[]", "{}", "1 2", "toy", "folder", "off", "cuda", "slide", "--help", "--list"),
)
COMMANDS = ("train", "test", "predict", "data", "score", "convert", "check", "export", "count", "report", "bench", "x")


def options_of(value: Any, prefix: str = "") -> list[str]:
    names: list[str] = []
    for field in fields(value):
        inner = getattr(value, field.name)
        name = f"{prefix}{field.name}"
        names += options_of(inner, f"{name}.") if is_dataclass(inner) else [f"--{name}".replace("_", "-")]
    return names


def line_of(paper: Paper, rng: np.random.Generator) -> list[str]:
    """Return a recipe's name, mostly, and options of it with words that fit or do not."""
    recipe = str(rng.choice([*paper.recipes, "toy"])) if rng.random() < 0.9 else str(rng.choice(WORDS))
    words = [recipe]
    names = options_of(paper.recipes["toy"])
    for _ in range(int(rng.integers(1, 5))):
        name = str(rng.choice(names))
        if rng.random() < 0.1:
            name = name[: int(rng.integers(2, len(name)))]
        words += [name, *(WORDS[int(i)] for i in rng.integers(len(WORDS), size=int(rng.integers(0, 3))))]
    return words


def check(capsys: pytest.CaptureFixture[str], command: Callable[[list[str]], int], words: list[str]) -> None:
    capsys.readouterr()
    with bounded():
        try:
            code = command(words)
        except SystemExit as error:  # of the library that reads options
            code = error.code or 0
    printed = capsys.readouterr()
    assert code in (0, 2), words
    assert "Traceback" not in printed.err, words
    assert code == 0 or (printed.err + printed.out).strip(), words


def seeds(quick: int, total: int) -> list[Any]:
    return [seed if seed < quick else pytest.param(seed, marks=pytest.mark.faults) for seed in range(total)]


@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.parametrize("part", seeds(1, 4))
def test_command_lines_of_every_paper(name: str, part: int, capsys: pytest.CaptureFixture[str]) -> None:
    paper = load_paper(name)
    for seed in range(16):
        rng = np.random.default_rng([PAPERS.index(name), part, seed])
        words = line_of(paper, rng)
        kind = int(rng.integers(3))
        options = (None, TestOptions, PredictOptions)[kind]
        words[1:1] = [["weights.pth"], ["weights.pth", "image.png"]][kind - 1] if kind else []

        def parse(argv: list[str], options: Any = options) -> int:
            request = parse_recipe(name, paper, argv, *([options] if options else []))
            return 0 if request is None or request.recipe else 1

        check(capsys, lambda argv: run_guarded(name, argv, parse), words)


@pytest.mark.parametrize("seed", seeds(5, 100))
def test_command_lines_of_runs(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["toy", *line_of(TINY, np.random.default_rng(seed))[1:], *SMALL, "--work-dir", str(tmp_path / "run")]
    check(capsys, train_command(TINY), words)


@pytest.mark.parametrize("seed", seeds(5, 80))
def test_command_lines_of_segcore(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng([7, seed])
    count = int(rng.integers(0, 4))
    words = [COMMANDS[seed % len(COMMANDS)], *(WORDS[int(i)] for i in rng.integers(len(WORDS), size=count))]
    check(capsys, main.main, words)
