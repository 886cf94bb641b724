"""What needs no torch to be found is told before torch is loaded, which takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from segcore.paper import installed_papers

CASES = {
    "a missing data root": (["train", "camvid", "--run.data", "absent"], "the folder absent does not exist"),
    "a data root that is not given": (["train", "camvid"], "CamVid needs its folder: set --run.data"),
    "an unknown data set": (["train", "toy", "--data.dataset", "toi"], "there is no data set 'toi'"),
    "a used work directory": (["train", "toy", "--work-dir", "used"], "used already holds a run"),
    "two ways to resume": (["train", "toy", "--resume", "--resume-from", "x.pt"], "choose one of them"),
    "a missing start": (["train", "toy", "--load-from", "x.pth"], "the checkpoint x.pth does not exist"),
    "a batch of odd parts": (["train", "toy", "--optim.accumulate", "3"], "must be a multiple of --optim.acc"),
    "absent classes": (["train", "toy", "--augment.flip-pairs", "14", "15"], "names class 14"),
    "a test without its file": (["test", "toy", "x.pth"], "the checkpoint x.pth does not exist"),
    "a test without its data": (["test", "camvid", "a.pth", "--run.data", "absent"], "absent does not exist"),
    "a metric that is not there": (["test", "toy", "a.pth", "--eval", "mAP"], "--eval mAP is unknown"),
    "a test of absent classes": (["test", "toy", "a.pth", "--evaluate.flip-pairs", "8", "1"], "names class 8"),
    "a prediction without its file": (["predict", "toy", "x.pth", "a.jpg"], "the checkpoint x.pth does not"),
    "a prediction of nothing": (["predict", "toy", "a.pth", "a.jpg"], "the input a.jpg does not exist"),
    "the short form without its file": (["segcore", "test", "x.safetensors"], "x.safetensors does not exist"),
    "a score without its data": (
        ["segcore", "score", "p", "--dataset", "camvid", "--root", "absent"],
        "absent does not",
    ),
    "a check without its data": (["segcore", "data", "check", "camvid", "--root", "absent"], "absent does not exist"),
    "a report of nothing": (["segcore", "report", "absent"], "cannot read absent/recipe.json"),
    "an export of nothing": (["segcore", "export", "x.safetensors", "x.onnx"], "x.safetensors does not exist"),
    "a conversion of nothing": (["segcore", "convert", "x.safetensors", "x.pth"], "x.safetensors does not exist"),
}
CODE = """
import contextlib, importlib, io, json, sys
for program, *words in json.load(sys.stdin):
    main = importlib.import_module("segcore.commands.main" if program == "segcore" else f"{sys.argv[1]}.{program}").main
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(words)
    print(json.dumps([code, "torch" in sys.modules, said.getvalue()]))
    assert "torch" not in sys.modules, program
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, bool, str]]:
    """What one process that runs all the cases, one after the other, gives for each, up to the first with torch."""
    folder = tmp_path_factory.mktemp("early")
    (folder / "used").mkdir()
    (folder / "used" / "last.safetensors").touch()
    (folder / "a.pth").touch()
    words = json.dumps([words for words, _ in CASES.values()])
    command = [sys.executable, "-c", CODE, next(iter(installed_papers()))]
    run = subprocess.run(command, input=words, capture_output=True, text=True, check=False, cwd=folder)
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.parametrize("case", CASES)
def test_it_is_told_before_torch_is_loaded(results: list[tuple[int, bool, str]], case: str) -> None:
    code, is_loaded, said = results[list(CASES).index(case)]
    assert not is_loaded
    assert code == 2
    assert CASES[case][1] in said
