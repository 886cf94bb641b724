"""What every paper's commands must do: instant help, training by torchrun, tests, predictions, the demo."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import cv2
import numpy as np
import pytest

from segcore.commands import bench as bench_command
from segcore.commands import count as count_command
from segcore.commands import demo
from segcore.commands.predict import predict_command
from segcore.commands.test import test_command as script_of_test
from segcore.data.toy.dataset import ToyScenes
from segcore.errors import InputError
from segcore.evaluation.image_counts import read_counts
from segcore.export import onnx_file
from segcore.paper import Paper
from tests.contract.conftest import Run, small_recipe

HELP_SECONDS = 1.0


def has_commands(paper: Paper) -> bool:
    """Return whether a paper has commands of its own, as all but core's baselines have."""
    return bool(entry_points(group="console_scripts", name=f"{paper.name}-train"))


def module_of(paper: Paper, command: str) -> list[str]:
    """Return the module that is a command of a paper, and the words after it."""
    return [f"{paper.name}.{command}"] if has_commands(paper) else ["segcore.commands.main", command, paper.name]


def _child_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("command", ["train", "test", "predict"])
@pytest.mark.parametrize("words", [["--help"], ["--list"], ["toy", "--help"]], ids=" ".join)
def test_help_is_instant_and_loads_no_torch(paper: Paper, command: str, words: list[str]) -> None:
    # what the installed script does; the session `install` runs the scripts themselves
    points = [*entry_points(group="console_scripts", name=f"{paper.name}-{command}")]
    if not points and command != "train":
        pytest.skip("`segcore test` and `segcore predict` find a baseline in its checkpoint")
    module, name = (points[0].module, points[0].attr) if points else ("segcore.commands.main", "main")
    words = words if points else [command, paper.name, *words]
    code = f"import sys; from {module} import {name}; sys.exit({name}())"
    before = _child_seconds()
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, *words], capture_output=True, text=True, check=True
    )
    # processor time: other programs on the machine do not count
    assert _child_seconds() - before < HELP_SECONDS
    imported = set(re.findall(r"^import time:.*\|\s+(\S+)$", run.stderr, flags=re.MULTILINE))
    assert "tyro" in imported  # the listing was read
    assert not {name for name in imported if name.split(".")[0] in ("torch", "timm", "mmcv", "torchvision")}
    assert "toy" in run.stdout


def test_the_commands_are_modules_for_torchrun(paper: Paper) -> None:
    for command in ("train", "test", "predict") if has_commands(paper) else ("train",):
        words = [sys.executable, "-m", *module_of(paper, command), "--list"]
        assert "camvid" in subprocess.run(words, capture_output=True, text=True, check=True).stdout


def _options(run: Run, folder: Path) -> list[str]:
    """Return the command-line form of a test of a finished run, whose weights are copied into a folder."""
    folder.mkdir()
    weights = shutil.copy(run.folder / "last.safetensors", folder)
    return [str(run.folder / "recipe.json"), str(weights)]


def _metric(folder: Path) -> dict[str, float]:
    (file,) = folder.glob("last.*.single-scale.*.json")
    return json.loads(file.read_text())["metric"]


def test_two_processes_score_exactly_what_one_does(finished_run: Run, tmp_path: Path) -> None:
    assert script_of_test(finished_run.paper)(_options(finished_run, tmp_path / "one")) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = _options(finished_run, tmp_path / "two")
    own = has_commands(finished_run.paper)
    program = module_of(finished_run.paper, "test") if own else ["segcore.commands.main", "test"]
    words = [*launcher, "-m", *program, *(options if own else options[1:])]
    run = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stderr
    assert len(ToyScenes("val", finished_run.recipe.data.num_images[1], (32, 32))) % 2 == 1  # an uneven share
    one, two = _metric(tmp_path / "one"), _metric(tmp_path / "two")
    np.testing.assert_equal(two, one)  # NaN of an absent class equals NaN
    counts = [read_counts(next((tmp_path / folder).glob("*.npz"))) for folder in ("one", "two")]
    assert counts[0].images == counts[1].images
    for part in ("classes", "segments", "matrix"):
        np.testing.assert_array_equal(getattr(counts[0], part), getattr(counts[1], part))


def test_prediction_writes_a_label_map_of_the_image_size(finished_run: Run, tmp_path: Path) -> None:
    image = tmp_path / "street.png"
    cv2.imwrite(str(image), ToyScenes("test", 1, (70, 101))[0].image)
    recipe, weights = str(finished_run.folder / "recipe.json"), str(finished_run.folder / "last.safetensors")
    assert predict_command(finished_run.paper)([recipe, weights, str(image), "--out", str(tmp_path / "out")]) == 0
    label = cv2.imread(str(tmp_path / "out" / "street.png"), cv2.IMREAD_UNCHANGED)
    assert label is not None
    assert label.shape[:2] == (70, 101)


def _missing() -> None:
    raise InputError("ONNX export needs onnx")


def test_the_demo_trains_tests_and_reports(
    paper: Paper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = replace(paper, recipes={**paper.recipes, "toy": small_recipe(paper, tmp_path)})
    monkeypatch.setattr(demo, "load_paper", lambda _: small)
    monkeypatch.setattr(onnx_file, "check_installed", _missing)  # its page is tests/web's, and takes IIWA a minute
    words = ["--papers", paper.name, "--out", str(tmp_path), "--iterations", "2", "--device", "cpu"]
    for _ in range(2):  # the second one takes the place of the first
        assert demo.main(words) == 0
    page = tmp_path / paper.name / "report.html"
    assert page.read_text("utf-8").count("data:image/") >= 4 * 5  # and pictures of the paper's own sections
    printed = capsys.readouterr().out
    assert re.search(r"mIoU \d+\.\d+ % single scale, \d+\.\d+ % multi-scale \+ flip", printed)
    assert str(page) in printed


def test_the_demo_leaves_a_foreign_folder_alone(paper: Paper, tmp_path: Path) -> None:
    folder = tmp_path / paper.name
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="something else than an earlier demo"):
        demo.main(["--papers", paper.name, "--out", str(tmp_path)])
    assert (folder / "thesis.txt").read_text() == "years of work"


def test_count_and_bench_take_a_recipe_of_every_paper(paper: Paper, capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--height", "64", "--width", "96"]
    assert count_command.main(["toy", "--paper", paper.name, *size]) == 0
    counted = re.search(r"1x3x64x96: (\d+\.\d+) M parameters", capsys.readouterr().out)
    assert counted is not None
    assert float(counted[1]) > 0
    assert bench_command.main(["toy", "--paper", paper.name, *size, "--runs", "1", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("64x96, 8 classes")
    assert all(form in printed for form in ("inference", "norms folded", "training step"))
    with pytest.raises(InputError, match="there is no recipe 'nothing'"):
        count_command.main(["nothing", "--paper", paper.name])
