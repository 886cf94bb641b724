"""An interrupted run of every paper ends bit-equal to an uninterrupted one."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segcore.recipe import Recipe
from segcore.training.loop import train
from segcore.training.run_folder import read_log
from segcore.training.trainer import Trainer
from segcore.weights.files import read_checkpoint
from segcore.weights.states import latest_state
from tests.contract.conftest import STEPS, Run


def _assert_equal(ours: Any, theirs: Any, where: str = "state") -> None:
    """Compare nested containers; tensors bit by bit."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, Tensor):
        assert torch.equal(ours, theirs), where
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            _assert_equal(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), where
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            _assert_equal(a, b, f"{where}[{i}]")
    else:
        assert ours == theirs, where


def _last_state(folder: Path) -> dict[str, Any]:
    state = latest_state(folder)
    assert state is not None
    content = state.content
    assert content["iteration"] == STEPS
    content.pop("recipe")  # names the folder
    return content


def _in(recipe: Recipe, folder: Path, **changes: Any) -> Recipe:
    return replace(recipe, run=replace(recipe.run, work_dir=str(folder), **changes))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_stopped_by_a_signal_and_resumed_ends_bit_equal(
    finished_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    paper, recipe = finished_run.paper, _in(finished_run.recipe, tmp_path)
    step = Trainer.step

    def step_and_stop(self: Trainer, parts: list[Any]) -> dict[str, Tensor]:
        terms = step(self, parts)
        if self.iteration == 0:
            signal.raise_signal(number)
        return terms

    monkeypatch.setattr(Trainer, "step", step_and_stop)
    stopped = train(paper, "toy", recipe)
    assert (stopped.iteration, stopped.exit_code) == (1, code)
    monkeypatch.setattr(Trainer, "step", step)
    resumed = train(paper, "toy", _in(recipe, tmp_path, resume=True))
    assert (resumed.iteration, resumed.exit_code) == (STEPS, 0)
    _assert_equal(_last_state(tmp_path), _last_state(finished_run.folder))
    ours, theirs = (read_checkpoint(folder / "last.safetensors") for folder in (tmp_path, finished_run.folder))
    _assert_equal(ours.tensors, theirs.tensors)
    losses = [[line.get("loss") for line in read_log(f / "log.jsonl")] for f in (tmp_path, finished_run.folder)]
    assert losses[0] == losses[1]


def test_loader_processes_do_not_change_a_run(finished_run: Run, tmp_path: Path) -> None:
    recipe = _in(finished_run.recipe, tmp_path)
    train(finished_run.paper, "toy", replace(recipe, data=replace(recipe.data, workers=2)))
    _assert_equal(_last_state(tmp_path), _last_state(finished_run.folder))
