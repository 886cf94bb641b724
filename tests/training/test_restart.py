"""Stopping, failing and going on: nothing is lost, no two histories mix, a mistake can be corrected and retried."""

from __future__ import annotations

import json
import shutil
import signal
import time
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch

from segcore.errors import InputError
from segcore.recipe import Recipe
from segcore.recipe.file import read_recipe
from segcore.training import loop as engine
from segcore.training.loop import train
from segcore.training.signals import SAME_SIGNAL, StopSignal
from segcore.training.trainer import Trainer
from segcore.weights.states import load_state, save_state, state_files, state_path
from tests.tiny_paper import PAPER
from tests.training.test_loop import recipe


def steps(settings: Recipe, iterations: int, **run: Any) -> Recipe:
    return replace(
        settings,
        schedule=replace(settings.schedule, iterations=iterations),
        run=replace(settings.run, **run),
    )


def test_a_run_killed_in_its_validation_goes_on_with_that_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(PAPER, "toy", steps(recipe(tmp_path / "whole"), 4, eval_interval=2))

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    part = steps(recipe(tmp_path / "part"), 4, eval_interval=2)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            train(PAPER, "toy", part)
    assert not load_state(state_path(tmp_path / "part", 2))["is_validated"]
    result = train(PAPER, "toy", steps(part, 4, resume=True))
    assert result.scores is not None
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "part")]
    ours, theirs = ([(line["mode"], line["iteration"]) for line in map(json.loads, log)] for log in logs)
    assert ours == theirs
    states = [load_state(state_path(tmp_path / name, 4)) for name in ("whole", "part")]
    assert states[0]["best"] == states[1]["best"]
    assert all(torch.equal(states[0]["model"][name], states[1]["model"][name]) for name in states[0]["model"])


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    """Issue 18, point 8: it wrote a second line for its last validation."""
    settings = recipe(tmp_path)
    train(PAPER, "toy", settings)
    names = ("log.jsonl", "best.safetensors", "last.safetensors", state_path(tmp_path, 2).name)
    before = [(tmp_path / name).read_bytes() for name in names]
    again = train(PAPER, "toy", steps(settings, settings.schedule.iterations, resume=True))
    assert (again.iteration, again.exit_code) == (2, 0)
    assert [(tmp_path / name).read_bytes() for name in names] == before
    assert "all 2 iterations were done before" in (tmp_path / "log.txt").read_text()


def test_a_run_killed_after_its_validation_was_logged_logs_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, state: dict[str, Any]) -> None:
        if state["iteration"] == 2 and state["is_validated"]:
            raise KeyboardInterrupt
        save_state(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "save_state", killed)
        with pytest.raises(KeyboardInterrupt):
            train(PAPER, "toy", recipe(tmp_path))
    train(PAPER, "toy", steps(recipe(tmp_path), 2, resume=True))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["mode"], line["iteration"]) for line in lines] == [("train", 1), ("train", 2), ("val", 2)]


def test_an_earlier_state_is_not_continued_beside_later_ones(tmp_path: Path) -> None:
    settings = steps(recipe(tmp_path), 4)
    train(PAPER, "toy", settings)
    with pytest.raises(InputError, match=r"holds the later state state-00000004\.pt"):
        train(PAPER, "toy", steps(settings, 4, resume_from=str(state_path(tmp_path, 2))))
    assert max(state_files(tmp_path)) == 4
    elsewhere = steps(settings, 4, resume_from=str(state_path(tmp_path, 2)), work_dir=str(tmp_path / "branch"))
    assert train(PAPER, "toy", elsewhere).iteration == 4


def test_a_state_of_another_run_does_not_open_a_used_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(PAPER, "toy", recipe(tmp_path / name))
    mixed = steps(recipe(tmp_path / "b"), 2, resume_from=str(state_path(tmp_path / "a", 1)))
    with pytest.raises(InputError, match="already holds a run"):
        train(PAPER, "toy", mixed)


def test_resume_and_resume_from_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="choose one of them"):
        train(PAPER, "toy", steps(recipe(tmp_path), 2, resume=True, resume_from="state.pt"))


def test_the_saved_recipe_says_how_to_begin_not_how_it_was_resumed(tmp_path: Path) -> None:
    settings = recipe(tmp_path)
    train(PAPER, "toy", settings)
    train(PAPER, "toy", steps(settings, settings.schedule.iterations, resume=True))
    saved = read_recipe(PAPER, str(tmp_path))
    assert saved is not None
    assert not saved[1].run.resume


def test_a_start_that_failed_at_once_can_be_repeated_with_the_mistake_mended(tmp_path: Path) -> None:
    settings = recipe(tmp_path)
    with pytest.raises(InputError, match="must be a multiple"):
        train(PAPER, "toy", replace(settings, optim=replace(settings.optim, accumulate=3)))
    assert train(PAPER, "toy", settings).iteration == 2


@pytest.mark.parametrize(
    ("part", "change", "option"),
    [
        ("run", {"seed": 5}, "--run.seed"),
        ("run", {"amp": "bf16"}, "--run.amp"),
        ("data", {"batch": 2}, "--data.batch"),
        ("data", {"num_images": (5, 2)}, "--data.num-images"),
    ],
)
def test_a_resumed_run_keeps_data_seed_and_precision(
    tmp_path: Path, part: str, change: dict[str, Any], option: str
) -> None:
    settings = recipe(tmp_path)
    train(PAPER, "toy", settings)
    resumed = steps(settings, settings.schedule.iterations, resume=True)
    changed = replace(resumed, **{part: replace(getattr(resumed, part), **change)})
    with pytest.raises(InputError, match=option):
        train(PAPER, "toy", changed)


def test_a_weight_that_is_no_number_is_neither_saved_nor_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def spoil(self: Trainer, parts: list[Any]) -> dict[str, torch.Tensor]:
        terms = step(self, parts)
        if self.iteration == 1:
            with torch.no_grad():
                next(self.model.parameters()).fill_(float("nan"))
        return terms

    monkeypatch.setattr(Trainer, "step", spoil)
    with pytest.raises(InputError, match=r"not finite after iteration 2; the last good state is .*00000001"):
        train(PAPER, "toy", recipe(tmp_path))
    assert [path.name for path in tmp_path.glob("state-*")] == ["state-00000001.pt"]


def test_signals_that_come_together_count_once_and_a_later_one_ends() -> None:
    stop = StopSignal()
    with stop.listening():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop.number == signal.SIGINT
        stop._since -= 2 * SAME_SIGNAL
        with stop.saving():
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def _flip(path: Path, place: float) -> None:
    """Change one bit, `place` of the way through a file."""
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 4
    path.write_bytes(data)


def test_resuming_from_a_damaged_state_is_refused(tmp_path: Path) -> None:
    """Issue 18, point 1: with one changed bit it went on, and 188 of 220 tensors ended different."""
    settings = steps(recipe(tmp_path), 4)
    train(PAPER, "toy", settings)
    damaged = state_path(tmp_path, 4)
    _flip(damaged, 0.5)
    with pytest.raises(InputError, match=r"state-00000004\.pt is truncated or damaged"):
        train(PAPER, "toy", steps(settings, 4, resume_from=str(damaged)))


def test_a_damaged_state_does_not_lead_to_another_one_than_was_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = steps(recipe(tmp_path), 4)
    train(PAPER, "toy", settings)
    _flip(state_path(tmp_path, 4), 0.5)
    with pytest.raises(InputError, match=r"holds the later state state-00000004\.pt"):
        train(PAPER, "toy", steps(settings, 4, resume_from=str(state_path(tmp_path, 2))))
    assert "passing over" not in caplog.text


@pytest.mark.parametrize("keep", [1, 2])
def test_a_run_whose_newest_state_is_damaged_goes_on_from_the_one_before_and_ends_bit_equal(
    tmp_path: Path, keep: int
) -> None:
    settings = steps(recipe(tmp_path / "whole"), 6)
    train(PAPER, "toy", settings)
    part = steps(recipe(tmp_path / "part"), 6)
    train(PAPER, "toy", part)
    for number in (1, 4, 5, 6):
        state_path(tmp_path / "part", number).unlink()
    _flip(state_path(tmp_path / "part", 3), 0.6)
    shutil.copy(state_path(tmp_path / "part", 3), state_path(tmp_path / "part", 9))  # newer than any that is written
    result = train(PAPER, "toy", steps(part, 6, resume=True, keep=keep))
    assert result.iteration == 6
    kept = [number for number in state_files(tmp_path / "part") if number != 9]
    assert kept == list(range(7 - keep, 7))  # issue 18, point 2: each good new one was deleted
    states = [load_state(state_path(tmp_path / name, 6))["model"] for name in ("whole", "part")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_run_whose_every_state_is_damaged_is_refused_and_loses_nothing(tmp_path: Path) -> None:
    """Issue 18, point 2: it started anew at iteration 0 and overwrote best.safetensors."""
    settings = steps(recipe(tmp_path), 2)
    train(PAPER, "toy", settings)
    for path in state_files(tmp_path).values():
        _flip(path, 0.5)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(InputError, match=r"is damaged \(state-00000001\.pt, state-00000002\.pt\); .*--load-from"):
        train(PAPER, "toy", steps(settings, 2, resume=True))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_loader_process_that_dies_while_a_state_is_saved_leaves_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch raised its death from within the writing of the file, which ended the process without a word."""

    def save(path: Path, state: dict[str, Any]) -> None:
        for worker in active_children():
            worker.kill()
            worker.join()
        time.sleep(0.1)
        save_state(path, state)

    monkeypatch.setattr(engine, "save_state", save)
    settings = steps(recipe(tmp_path), 1000)
    with pytest.raises(InputError, match="a loader process was killed"):
        train(PAPER, "toy", replace(settings, data=replace(settings.data, workers=2)))
    assert load_state(state_path(tmp_path, 1))["iteration"] == 1


@pytest.mark.parametrize("missing", ["model", "optimizer", "scaler", "iteration", "recipe"])
def test_a_state_without_an_entry_is_one_sentence(tmp_path: Path, missing: str) -> None:
    settings = recipe(tmp_path)
    train(PAPER, "toy", settings)
    state = load_state(state_path(tmp_path, 2))
    del state[missing]
    save_state(state_path(tmp_path, 2), state)
    sentence = rf"state-00000002\.pt is a state of another network or version: .*{missing}"
    with pytest.raises(InputError, match=sentence):
        train(PAPER, "toy", steps(settings, 2, resume=True))


def test_the_last_good_state_holds_no_exploded_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue 18, point 8: weights may be finite and give no finite loss, or a huge one."""
    step = Trainer.step

    def explode(self: Trainer, parts: list[Any]) -> dict[str, torch.Tensor]:
        terms = step(self, parts)
        if self.iteration >= 2:
            with torch.no_grad():
                self.model.get_parameter("classifier.weight").mul_(1e6 if self.iteration == 2 else 1e36)
        return terms

    monkeypatch.setattr(Trainer, "step", explode)
    with pytest.raises(InputError, match=r"after iteration 4; the last good state is .*state-00000002\.pt \("):
        train(PAPER, "toy", steps(recipe(tmp_path), 6))
    assert max(state_files(tmp_path)) == 3  # its weights are finite


def test_a_state_made_before_an_option_existed_is_resumed(tmp_path: Path) -> None:
    settings = recipe(tmp_path)
    train(PAPER, "toy", settings)
    path = state_path(tmp_path, 2)
    state = load_state(path)
    for section, option in (("data", "mask_values"), ("schedule", "warmup_kind")):
        del state["recipe"][section][option]
    save_state(path, state)
    assert train(PAPER, "toy", replace(settings, run=replace(settings.run, resume=True))).iteration == 2
