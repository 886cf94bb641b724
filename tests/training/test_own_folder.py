"""Training on a folder of one's own: paths that hold from anywhere, validation on other images, shared images."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segcore import distributed
from segcore.data import create_dataset
from segcore.errors import InputError
from segcore.recipe import Recipe
from segcore.recipe.file import read_recipe, recipe_from_plain
from segcore.training.loop import train
from segcore.training.trainer import Trainer
from segcore.weights.files import read_checkpoint
from segcore.weights.states import latest_state
from tests.data.test_folder import make_folder
from tests.tiny_paper import PAPER
from tests.training.test_loop import recipe


def own(work_dir: str, data: str, iterations: int = 2, run: dict[str, Any] | None = None, **options: Any) -> Recipe:
    base = recipe(Path(work_dir))
    return replace(
        base,
        data=replace(base.data, dataset="folder", batch=2, **options),
        schedule=replace(base.schedule, iterations=iterations),
        run=replace(base.run, data=data, **(run or {})),
    )


def test_recipe_json_keeps_the_data_path_absolute_so_that_a_report_works_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path / "mine")
    (tmp_path / "val.txt").write_text("03\n")
    (tmp_path / "names.txt").write_text("road\ncar\n")
    monkeypatch.chdir(tmp_path)
    train(PAPER, "toy", own("run", "mine", val_list="val.txt", classes="names.txt"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    saved = read_recipe(PAPER, str(tmp_path / "run"))
    meta = read_checkpoint(tmp_path / "run" / "best.safetensors").meta
    assert saved is not None
    assert meta is not None
    for found in (saved[1], recipe_from_plain(PAPER, meta.recipe, "weights")):
        assert found.run.data == str(tmp_path / "mine")
        data = found.data
        assert [data.val_list, data.classes] == [str(tmp_path / "val.txt"), str(tmp_path / "names.txt")]
        assert [data.train_list, data.test_list] == ["", ""]
        assert len(create_dataset(data, found.run.data, "val", list_file=data.val_list)) == 1


def test_resuming_takes_another_val_list_and_starts_its_best_score_anew(tmp_path: Path) -> None:
    root, work_dir = make_folder(tmp_path / "mine"), str(tmp_path / "run")
    train(PAPER, "toy", own(work_dir, str(root)))
    (tmp_path / "val.txt").write_text("05\n")
    saved = latest_state(work_dir)
    assert saved is not None
    resumed = own(work_dir, str(root), val_list=str(tmp_path / "val.txt"), run={"resume": True})
    trainer = Trainer(PAPER, "toy", resumed, distributed.World(0, 1, 0, distributed.init("cpu").device))
    trainer.best = 0.5
    trainer.load_state({**saved.content, "best": 0.99}, saved.path)
    assert trainer.best == -1.0
    assert train(PAPER, "toy", resumed).scores is not None


def test_a_resumed_run_keeps_its_training_list_which_may_have_moved(tmp_path: Path) -> None:
    root, work_dir = make_folder(tmp_path / "mine"), str(tmp_path / "run")
    for name in ("a/train.txt", "b/train.txt", "b/other.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("01\n02\n03\n")
    train(PAPER, "toy", own(work_dir, str(root), train_list=str(tmp_path / "a/train.txt")))
    with pytest.raises(InputError, match=r"other values of --data\.train-list"):
        train(PAPER, "toy", own(work_dir, str(root), train_list=str(tmp_path / "b/other.txt"), run={"resume": True}))
    train(PAPER, "toy", own(work_dir, str(root), train_list=str(tmp_path / "b/train.txt"), run={"resume": True}))


@pytest.mark.parametrize(("stems", "shared"), [("01\n10\n", 1), ("01\n02\n", 0)])
def test_validation_images_that_are_trained_on_are_said(
    stems: str, shared: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_folder(tmp_path / "mine")
    (tmp_path / "train.txt").write_text(stems)
    world = distributed.World(0, 1, 0, distributed.init("cpu").device)
    with caplog.at_level(logging.WARNING, "segcore"):
        Trainer(PAPER, "toy", own("", str(root), train_list=str(tmp_path / "train.txt")), world)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["1 of the 2 validation images are trained on as well"] * shared
