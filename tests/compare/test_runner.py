"""How a study runs, with trainings and tests that only leave the files of real ones."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segcore.compare.runner import Runner
from segcore.compare.study import Study, read_study
from tests.compare.children import Child

Call = tuple[str, str, list[str]]
STUDY = Study(
    dataset="toy",
    papers="cgrseg-toy,fcn-toy",
    backbone="resnet18",
    pretrained=False,
    iterations=8,
    seeds=2,
    device="cpu",
    workers=0,
    aug_test=True,
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """The words of every process that a study started; none is a real one."""
    Child.calls, Child.places, Child.failing, Child.rates, Child.on_start = [], [], set(), {}, []
    monkeypatch.setattr("segcore.compare.runner.subprocess.Popen", Child)
    return Child.calls


def run(tmp_path: Path, **options: Any) -> tuple[int, list[str]]:
    said: list[str] = []
    study = replace(STUDY, work_dir=str(tmp_path / "study"), **options)
    return Runner(study, "command", said.append).run(), said


def test_every_run_is_trained_tested_twice_and_the_first_seed_measured(tmp_path: Path, calls: list[Call]) -> None:
    assert run(tmp_path)[0] == 0
    every = ["train", "test", "test-aug"]
    assert [(head, steps) for head, _, steps in calls] == [
        *[(head, [*every, "cost"]) for head in ("cgrseg-toy", "fcn-toy")],
        *[(head, every) for head in ("cgrseg-toy", "fcn-toy")],
    ]
    before = len(calls)
    assert run(tmp_path)[0] == 0  # nothing is left to do
    assert len(calls) == before


def test_a_test_that_is_missing_is_made_up_for(tmp_path: Path, calls: list[Call]) -> None:
    run(tmp_path, aug_test=False)
    before = len(calls)
    run(tmp_path)
    assert [steps for _, _, steps in calls[before:]] == [["test-aug"]] * 4
    next((tmp_path / "study" / "runs" / "fcn-toy").glob("*seed-1/*.npz")).unlink()
    run(tmp_path)
    head, name, (step,) = calls[-1]
    assert (head, name) == ("fcn-toy", "lr-0.0003-seed-1")
    assert step.startswith("test")


def test_a_study_is_extended_by_a_head_and_a_seed(tmp_path: Path, calls: list[Call]) -> None:
    run(tmp_path, aug_test=False)
    before = len(calls)
    run(tmp_path, aug_test=False, papers="smp-unet", seeds=3)
    trained = [head for head, _, steps in calls[before:] if "train" in steps]
    assert sorted(trained) == ["cgrseg-toy", "fcn-toy", "smp-unet", "smp-unet", "smp-unet"]


def test_a_failed_run_is_a_row_with_its_sentence_and_is_tried_again(tmp_path: Path, calls: list[Call]) -> None:
    Child.failing = {"fcn-toy"}
    code, said = run(tmp_path)
    assert code == 1
    state = read_study(tmp_path / "study")
    assert state is not None
    assert state.problems == {
        f"fcn-toy/lr-0.0003-seed-{seed}": "the loss is no number; lower --optim.lr" for seed in range(2)
    }
    assert "fcn-toy/lr-0.0003-seed-0: failed, the loss is no number; lower --optim.lr" in said
    assert state.trained == ["cgrseg-toy/lr-0.0003-seed-0", "cgrseg-toy/lr-0.0003-seed-1"]
    Child.failing = set()
    assert run(tmp_path)[0] == 0
    state = read_study(tmp_path / "study")
    assert state is not None
    assert (state.problems, len(state.trained)) == ({}, 4)


def test_a_stopped_training_is_resumed(tmp_path: Path, calls: list[Call]) -> None:
    Child.on_start = [lambda: os.kill(os.getpid(), signal.SIGTERM)]
    code, said = run(tmp_path)
    assert code == 128 + signal.SIGTERM
    assert said[-1] == "stopped by SIGTERM; the same command goes on"
    assert len(calls) == 1
    Child.on_start = []
    assert run(tmp_path)[0] == 0
    assert len(calls) == 1 + 4
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_each_head_takes_the_rate_that_is_best_on_the_validation_images(tmp_path: Path, calls: list[Call]) -> None:
    Child.rates = {("cgrseg-toy", 1e-3): 0.5, ("cgrseg-toy", 1e-4): 0.4, ("fcn-toy", 1e-3): 0.2, ("fcn-toy", 1e-4): 0.3}
    run(tmp_path, lrs=(1e-3, 1e-4), aug_test=False)
    state = read_study(tmp_path / "study")
    assert state is not None
    assert state.chosen == {"cgrseg-toy": 1e-3, "fcn-toy": 1e-4}
    assert sum("train" in steps for _, _, steps in calls) == 4 + 2  # a rate costs the first seed only
    tested = sorted((head, name) for head, name, steps in calls if "test" in steps)
    best = (("cgrseg-toy", "0.001"), ("fcn-toy", "0.0001"))
    assert tested == [(head, f"lr-{rate}-seed-{seed}") for head, rate in best for seed in (0, 1)]


def test_steps_may_be_bought_with_the_same_multiply_adds(tmp_path: Path, calls: list[Call]) -> None:
    run(tmp_path, equal="macs", iterations=100, aug_test=False, seeds=1)
    state = read_study(tmp_path / "study")
    assert state is not None
    assert state.iterations["cgrseg-toy"] == 100
    assert 0 < state.iterations["fcn-toy"] < 100  # dilated, so dearer


def test_several_gpus_share_the_runs(tmp_path: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    run(tmp_path, device="auto", aug_test=False)
    assert set(Child.places) == {"0", "1"}
