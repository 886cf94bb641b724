"""`segcore train PAPER RECIPE`, `segcore test CHECKPOINT`, `segcore predict CHECKPOINT INPUT...`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from segcore.commands.main import main
from tests.test_predictor import two_halves, write_png
from tests.tiny_paper import PAPER, published_tensors

FAST = ["--run.device", "cpu", "--data.workers", "0"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the tiny paper the installed one; its recipe is not the run's."""
    other = replace(PAPER.recipes["toy"], data=replace(PAPER.recipes["toy"].data, num_images=(4, 9)))
    paper = replace(PAPER, recipes={"toy": other})
    for place in ("segcore.commands.recipes", "segcore.commands.train"):
        monkeypatch.setattr(f"{place}.load_paper", lambda _: paper)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of a run with three test images."""
    words = ["--data.num-images", "4", "3", "--evaluate.scale", "60", "40", "--work-dir", str(tmp_path / "run"), *FAST]
    assert main(["train", "tiny", "toy", *words]) == 0
    return tmp_path / "run" / "last.safetensors"


def test_a_test_takes_the_recipe_of_the_checkpoint_and_options_on_top_of_it(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test", str(weights)]) == 0
    assert "tiny toy, toy val, single scale: 3 images" in capsys.readouterr().out
    assert main(["test", str(weights), "--evaluate.scale", "48", "32", "--aug-test"]) == 0
    scores = [json.loads(path.read_text()) for path in sorted(weights.parent.glob("last.val.*.json"))]
    assert [score["protocol"]["scale"] for score in scores] == [[48, 32], [60, 40]]  # by name: multi, then single
    assert {score["images"] for score in scores} == {3}


def test_a_prediction_needs_no_recipe_beside_the_checkpoint(weights: Path, tmp_path: Path) -> None:
    image = write_png(tmp_path / "in" / "a.png", two_halves())
    assert main(["predict", str(weights), str(image), "--out", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "a_overlay.jpg"]


@pytest.mark.parametrize("command", ["test", "predict"])
def test_a_published_file_is_sent_to_the_command_of_its_paper(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": published_tensors(PAPER.build(PAPER.recipes["toy"], 8))}, tmp_path / "p.pth")
    assert main([command, str(tmp_path / "p.pth"), "x.jpg"]) == 2
    assert "p.pth does not say its recipe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["test"], "segcore test: a checkpoint is needed as the first argument"),
        (["test", "--aug-test"], "segcore test: the first argument must be a checkpoint, got '--aug-test'"),
        (["predict", "absent.safetensors"], "segcore predict: the checkpoint absent.safetensors does not exist"),
        (["train"], "segcore train: a paper is needed as the first argument"),
        (["train", "tiny", "toi"], "segcore train: tiny has no recipe 'toi'"),
    ],
)
def test_a_missing_or_wrong_first_word_is_one_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(sentence)


def test_the_help_of_a_checkpoint_shows_its_own_values(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["test", str(weights), "--help"])
    assert not stop.value.code
    assert "60 40" in capsys.readouterr().out
