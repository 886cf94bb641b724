"""A whole study of generated scenes: real processes, trainings and tests, then everything that is shown of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segcore.commands import compare_context, compare_run, compare_show
from segcore.compare.study import read_study
from segcore.training.run_folder import read_log

WORDS = (
    *("toy", "--papers", "cgrseg-toy,fcn-toy", "--backbone", "resnet18", "--pretrained", "false", "--seeds", "2"),
    *("--iterations", "6", "--validations", "2", "--num-images", "8", "5", "--crop", "64", "64", "--scale", "96", "64"),
    *("--batch", "2", "--workers", "0", "--device", "cpu", "--lrs", "1e-3", "--aug-test", "--aug-ratios", "1", "1.5"),
)


@pytest.mark.slow
def test_a_toy_study_runs_and_shows_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "study"
    assert compare_run.main([*WORDS, "--work-dir", str(study)]) == 0, capsys.readouterr().out
    state = read_study(study)
    assert state is not None
    assert len(state.trained) == 4
    assert compare_show.main([str(study), "--resamples", "200", "--images", "1", "--device", "cpu"]) == 0
    found = json.loads((study / "comparison.json").read_text())
    assert {row["head"] for row in found["ranking"]} == {"cgrseg-toy", "fcn-toy"}
    for row in found["ranking"]:
        assert row["seeds"] == 2
        assert row["low"] <= row["mIoU"] <= row["high"]
        assert row["latency ms"] > 0
        assert row["ms+flip gain"] is not None
    assert (study / "comparison.html").stat().st_size > 1e6
    folders = sorted((study / "runs").glob("*/lr-0.001-seed-0"))
    recipes = [json.loads((folder / "recipe.json").read_text())["recipe"] for folder in folders]
    assert recipes[0]["augment"] == recipes[1]["augment"]
    assert [len(read_log(folder / "log.jsonl")) for folder in folders] == [8, 8]  # every step, two validations
    weights = [str(folder / "best.safetensors") for folder in folders]
    words = [*weights, "--radii", "8", "--pixels", "1", "--images", "2", "--device", "cpu"]
    assert compare_context.main([*words, "--out", str(tmp_path / "context")]) == 0
    before = len(state.commands)
    assert compare_run.main([*WORDS, "--work-dir", str(study)]) == 0  # nothing is left to do
    state = read_study(study)
    assert state is not None
    assert len(state.commands) == before
