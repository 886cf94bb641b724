"""Damaged weights and states: one sentence, an earlier state, or the same values; never other ones (issue 18).

A few run by default with the tiny paper; `nox -s faults` damages 200 files of all five papers.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from segcore import build
from segcore.commands import convert
from segcore.commands.main import main
from segcore.errors import InputError
from segcore.paper import Paper, load_paper
from segcore.recipe import Recipe
from segcore.training.loop import train
from segcore.weights.files import read_checkpoint
from segcore.weights.states import latest_state, load_state, state_path
from tests import tiny_paper
from tests.contract.conftest import STEPS, small_recipe
from tests.faults.damage import damaged

PAPERS = ("cgrseg", "ecfd", "iiwa", "memorynet", "unept")
EACH = 20
"""Damaged weights, and as many damaged states, of every paper."""
RESUMED = 4
"""Every so many states are resumed to the end; of the others it is only compared which one would be."""


class Run(NamedTuple):
    """A finished run, whose folder is given back as it was."""

    paper: Paper
    recipe: Recipe
    folder: Path


def _params() -> list[Any]:
    quick = [pytest.param("tiny", id="tiny")]
    return quick + [pytest.param(name, id=name, marks=pytest.mark.faults) for name in PAPERS]


@pytest.fixture(scope="module", params=_params())
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run of four steps of every paper, with states after two and four."""
    paper = tiny_paper.PAPER if request.param == "tiny" else load_paper(request.param)
    folder = tmp_path_factory.mktemp(paper.name) / "run"
    recipe = small_recipe(paper, folder)
    train(paper, "toy", recipe)
    with pytest.MonkeyPatch.context() as patch:
        for module in (build, convert):
            patch.setattr(module, "load_paper", lambda _: paper)
        yield Run(paper, recipe, folder)
    shutil.rmtree(folder.parent)  # some hundred MB


def _assert_equal(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    if isinstance(ours, Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            _assert_equal(value, theirs[key])
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for value, other in zip(ours, theirs, strict=True):
            _assert_equal(value, other)
    else:
        assert ours == theirs


@pytest.mark.parametrize("seed", range(EACH))
def test_damaged_weights_are_refused_in_one_sentence_or_unchanged(
    run: Run, seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, path = run.folder / "last.safetensors", tmp_path / "w.safetensors"
    path.write_bytes(damaged(whole.read_bytes(), seed))
    code = main(["check", str(path)])
    try:
        loaded = read_checkpoint(path)
    except InputError as error:
        refused = str(error)
    else:
        expected = read_checkpoint(whole)
        _assert_equal(loaded.tensors, expected.tensors)
        assert loaded.meta == expected.meta
        return
    assert code == 2
    assert str(path) in refused
    capsys.readouterr()
    assert main(["convert", str(path), str(tmp_path / "out.pth")]) == 2
    assert re.fullmatch(r"segcore convert: [^\n]*w\.safetensors[^\n]*\n", capsys.readouterr().err)
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize("seed", range(EACH))
def test_a_damaged_state_is_passed_over_or_unchanged(run: Run, seed: int, tmp_path: Path) -> None:
    newest = state_path(run.folder, STEPS)
    whole = newest.read_bytes()
    changed = damaged(whole, 1000 + seed)
    if seed % RESUMED == 0:
        folder = tmp_path / "part"
        shutil.copytree(run.folder, folder)
        state_path(folder, STEPS).write_bytes(changed)
        train(run.paper, "toy", _resumed(run.recipe, folder))
        ends = [load_state(state_path(place, STEPS)) for place in (run.folder, folder)]
        for end in ends:
            del end["recipe"]  # names the folder
        _assert_equal(ends[0], ends[1])
        shutil.rmtree(folder)
        return
    expected = {path: load_state(path) for path in (newest, state_path(run.folder, 2))}
    try:
        newest.write_bytes(changed)
        found = latest_state(run.folder)
    finally:
        newest.write_bytes(whole)
    assert found is not None
    _assert_equal(found.content, expected[found.path])


@pytest.mark.parametrize("seed", range(3))
def test_where_every_state_is_damaged_the_run_is_refused_and_keeps_its_files(
    run: Run, seed: int, tmp_path: Path
) -> None:
    folder = tmp_path / "part"
    shutil.copytree(run.folder, folder)
    for number in (2, STEPS):
        path = state_path(folder, number)
        path.write_bytes(path.read_bytes()[: -1000 - 7 * seed])
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()}
    with pytest.raises(InputError, match=r"every training state .*state-00000002\.pt, state-00000004\.pt"):
        train(run.paper, "toy", _resumed(run.recipe, folder))
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()} == before
    shutil.rmtree(folder)


def _resumed(recipe: Recipe, folder: Path) -> Recipe:
    return replace(recipe, run=replace(recipe.run, work_dir=str(folder), resume=True))
