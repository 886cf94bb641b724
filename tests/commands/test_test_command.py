"""`<paper>-test` and `<paper>-predict`: what they refuse before the work, and what they write and print after it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import socket
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from segcore.commands.predict import PredictOptions, predict
from segcore.commands.test import TestOptions
from segcore.commands.test import test as run_test
from segcore.errors import InputError
from segcore.evaluation.image_counts import counts_path, read_counts
from segcore.paper import Paper
from segcore.recipe import Published, Recipe
from segcore.recipe.plain import to_plain
from segcore.weights.files import run_versions, save_weights
from segcore.weights.header import CheckpointMeta
from tests.data.test_folder import make_folder, make_split_folder
from tests.tiny_paper import PAPER, published_tensors


def make_recipe(root: Path) -> Recipe:
    """Return the tiny recipe for the folder data set `root`/data of two classes."""
    base = PAPER.recipes["toy"]
    return replace(
        base,
        data=replace(base.data, dataset="folder"),
        published=Published(miou=43.6),
        run=replace(base.run, data=str(root / "data"), work_dir=str(root / "work"), device="cpu"),
    )


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """Save an untrained network for the data set of 12 images that it makes, two of them to be tested."""
    make_folder(tmp_path / "data")  # only the class "car" occurs
    recipe = make_recipe(tmp_path)
    torch.manual_seed(0)
    model = PAPER.build(recipe, 2)
    meta = CheckpointMeta(
        paper="tiny",
        recipe_name="toy",
        recipe=to_plain(recipe),
        classes=["road", "car"],
        palette=[[1, 2, 3], [4, 5, 6]],
        iteration=0,
        scores={},
        versions=run_versions(),
    )
    save_weights(tmp_path / "w.safetensors", model.state_dict(), meta)
    return str(tmp_path / "w.safetensors")


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a network is loaded or images are evaluated: what is refused must be refused before."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr("segcore.build.model_for_checkpoint", fail)
    monkeypatch.setattr("segcore.evaluation.evaluate.evaluate", fail)
    monkeypatch.setattr("segcore.predictor.Predictor", fail)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("settings", "option", "file"),
    [
        ({"out": "data/masks"}, "--out", "00.png"),
        ({"show_dir": "data/images"}, "--show-dir", "00.jpg"),
        ({"out": "pictures", "show_dir": "link/images"}, "--show-dir", "00.jpg"),
    ],
)
def test_files_of_the_data_set_are_never_replaced(
    tmp_path: Path, weights: str, settings: dict[str, str], option: str, file: str
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "data")
    before = contents(tmp_path / "data")
    folders: dict[str, Any] = {name: str(tmp_path / path) for name, path in settings.items()}
    options = TestOptions(checkpoint=weights, **folders)
    with pytest.raises(InputError, match=rf"^{option}: .*{file} would replace an input"):
        run_test(PAPER, "toy", make_recipe(tmp_path), options)
    assert contents(tmp_path / "data") == before


def test_pictures_go_beside_the_data_set_and_leave_it_alone(tmp_path: Path, weights: str) -> None:
    before = contents(tmp_path / "data")
    folders: dict[str, Any] = {"out": str(tmp_path / "data" / "out"), "show_dir": str(tmp_path / "show")}
    run_test(PAPER, "toy", make_recipe(tmp_path), TestOptions(checkpoint=weights, **folders))
    after = contents(tmp_path / "data")
    assert sorted(set(after) - set(before)) == ["out/00.png", "out/10.png"]
    assert {name: after[name] for name in before} == before
    assert sorted(contents(tmp_path / "show")) == ["00.jpg", "10.jpg"]


@pytest.mark.parametrize(("splits", "tested"), [(("train", "val"), "val"), (("train", "val", "test"), "test")])
def test_a_folder_with_images_train_and_val_only_is_tested_on_val_and_says_so(
    splits: tuple[str, ...], tested: str, tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_split_folder(tmp_path / "own", splits)
    recipe = make_recipe(tmp_path)
    data = replace(recipe.data, test_split="test")
    out = tmp_path / "out"
    recipe = replace(recipe, data=data, run=replace(recipe.run, data=str(root)))
    run_test(PAPER, "toy", recipe, TestOptions(checkpoint=weights, out=str(out)))
    printed = capsys.readouterr()
    assert f"folder {tested}, single scale: 2 images" in printed.out
    assert sorted(contents(out)) == [f"{tested}0.png", f"{tested}1.png"]
    is_said = f"{root} has no test split: its validation images (split val) are taken instead" in printed.err
    assert is_said == (tested == "val")


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", ["out", "show_dir"])
def test_a_file_in_place_of_an_output_folder_is_refused_before_the_work(
    tmp_path: Path, weights: str, name: str
) -> None:
    (tmp_path / name).write_text("")
    settings: dict[str, Any] = {name: str(tmp_path / name)}
    option = {"out": "--out", "show_dir": "--show-dir"}[name]
    with pytest.raises(InputError, match=f"{name} is a file, not a folder; give another {option}"):
        run_test(PAPER, "toy", make_recipe(tmp_path), TestOptions(checkpoint=weights, **settings))


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("opacity", [-0.5, 1.5])
def test_an_impossible_opacity_is_refused_before_the_work(tmp_path: Path, weights: str, opacity: float) -> None:
    recipe = make_recipe(tmp_path)
    options = PredictOptions(checkpoint=weights, inputs=("x.jpg",), opacity=opacity)
    commands: list[Callable[[], object]] = [
        lambda: run_test(PAPER, "toy", recipe, TestOptions(checkpoint=weights, opacity=opacity)),
        lambda: predict(PAPER, recipe, options),
    ]
    for command in commands:
        with pytest.raises(InputError, match="--opacity must be between 0 and 1"):
            command()


def test_predicting_a_folder_into_itself_leaves_its_images(tmp_path: Path, weights: str) -> None:
    images = tmp_path / "data" / "images"
    before = contents(images)
    options = PredictOptions(checkpoint=weights, inputs=(str(images),), out=str(tmp_path / "p"), show_dir=str(images))
    with pytest.raises(InputError, match=r"--show-dir: .* would replace an input"):
        predict(PAPER, make_recipe(tmp_path), options)
    assert contents(images) == before


def test_the_result_file_is_strict_json_with_null_for_absent_classes(tmp_path: Path, weights: str) -> None:
    # Nothing is labeled: no class has a score.
    for mask in (tmp_path / "data" / "masks").iterdir():
        cv2.imwrite(str(mask), np.full_like(cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE), 255))
    run_test(PAPER, "toy", make_recipe(tmp_path), TestOptions(checkpoint=weights))
    (file,) = tmp_path.glob("w.*.json")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    result = json.loads(file.read_text(), parse_constant=refuse)
    assert result["images"] == 2
    assert result["metric"]["mIoU"] is None


def _predict_process(rank: int, folder: str) -> None:
    """Run process `rank` of two of `<paper>-predict`."""
    root = Path(folder)
    port = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": (root / "port").read_text(), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), **port)
    torch.set_num_threads(1)
    inputs, out = (str(root / "data" / "images"),), str(root / "out")
    predict(PAPER, make_recipe(root), PredictOptions(checkpoint=str(root / "w.safetensors"), inputs=inputs, out=out))


@pytest.mark.usefixtures("weights")
def test_two_processes_of_predict_share_the_images(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(free.getsockname()[1]))
    mp.start_processes(_predict_process, args=(str(tmp_path),), nprocs=2, start_method="fork")
    assert len([*(tmp_path / "out").glob("??.png")]) == 12
    said = sorted(re.findall(r"wrote (\d+) label maps .*\((process . of 2)\)", capfd.readouterr().out))
    assert said == [("6", "process 1 of 2"), ("6", "process 2 of 2")]


def test_a_score_is_written_beside_the_weights_that_it_belongs_to(
    tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe(tmp_path)
    other = tmp_path / "other" / "w.safetensors"
    other.parent.mkdir()
    other.write_bytes(Path(weights).read_bytes())
    scores = run_test(PAPER, "toy", recipe, TestOptions(checkpoint=str(other), aug_test=True))
    (file,) = other.parent.glob("*.json")
    assert file.name.startswith("w.val.multi-scale-flip.")
    assert f"score: {file}\n" in capsys.readouterr().out
    assert not [*tmp_path.glob("*.json"), *tmp_path.glob("work/*")]
    score = json.loads(file.read_text())
    assert scores is not None
    assert score["metric"]["mIoU"] == pytest.approx(scores.miou, abs=1e-4)
    assert (score["paper"], score["recipe"], score["weights"], score["images"]) == ("tiny", "toy", "w.safetensors", 2)
    assert score["sha256"] == hashlib.sha256(other.read_bytes()).hexdigest()
    assert (score["data"]["dataset"], score["data"]["split"]) == ("folder", "val")
    assert score["data"]["settings"]["root"] == str(tmp_path / "data")
    assert score["protocol"] == to_plain(recipe.evaluate.with_augmentation())
    counts = read_counts(counts_path(file))
    assert to_plain(counts.score) == score
    assert counts.images == ("00", "10")
    np.testing.assert_array_equal(counts.counts().labeled.sum(axis=0), scores.labeled)
    np.testing.assert_allclose(counts.counts().iou(), scores.iou)
    np.testing.assert_array_equal(counts.matrix, scores.counts[:2])


def test_a_published_file_has_its_score_beside_it(tmp_path: Path) -> None:
    make_folder(tmp_path / "data")
    recipe = make_recipe(tmp_path)
    torch.save({"state_dict": published_tensors(PAPER.build(recipe, 2))}, tmp_path / "p.pth")
    run_test(PAPER, "toy", recipe, TestOptions(checkpoint=str(tmp_path / "p.pth")))
    assert [path.name.rpartition(".single-scale.")[0] for path in tmp_path.glob("*.json")] == ["p.val"]


def test_where_the_folder_of_the_weights_is_not_writable_the_score_goes_into_the_work_directory(
    tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    writable = tempfile.TemporaryFile

    def refuse(*, dir: Path) -> Any:
        if dir == tmp_path:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return writable(dir=dir)

    monkeypatch.setattr("segcore.files.tempfile.TemporaryFile", refuse)
    run_test(PAPER, "toy", make_recipe(tmp_path), TestOptions(checkpoint=weights))
    (file,) = (tmp_path / "work").glob("*.json")
    assert file.name.startswith("w.val.single-scale.")
    assert file.with_suffix(".npz").is_file()
    assert not [*tmp_path.glob("*.json")]
    said = capsys.readouterr().out
    assert f"(the folder of the weights, {tmp_path}, cannot be written)" in said


def test_tests_of_other_settings_have_files_of_their_own_and_the_same_test_replaces_its_own(
    tmp_path: Path, weights: str
) -> None:
    recipe = make_recipe(tmp_path)
    larger = replace(recipe, evaluate=replace(recipe.evaluate, scale=(96, 64)))
    for asked in (recipe, larger, recipe):
        run_test(PAPER, "toy", asked, TestOptions(checkpoint=weights))
    assert len([*tmp_path.glob("w.val.single-scale.*.json")]) == 2


@pytest.mark.usefixtures("no_work")
def test_flip_pairs_of_absent_classes_are_refused_before_a_test(tmp_path: Path, weights: str) -> None:
    recipe = make_recipe(tmp_path)
    recipe = replace(recipe, evaluate=replace(recipe.evaluate, flip=True, flip_pairs=((14, 15),)))
    with pytest.raises(InputError, match=r"^--evaluate\.flip-pairs names class 14; there are 0 to 1$"):
        run_test(PAPER, "toy", recipe, TestOptions(checkpoint=weights))


def _last_line(capsys: pytest.CaptureFixture[str], paper: Paper, recipe: Recipe, weights: str) -> str:
    run_test(paper, "toy", recipe, TestOptions(checkpoint=weights))
    return capsys.readouterr().out.splitlines()[-1]


def test_the_published_figure_is_shown_for_the_recipes_own_model_only(
    tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe(tmp_path)
    paper = replace(PAPER, recipes={"toy": recipe})
    started = replace(recipe, model=replace(recipe.model, pretrained=not recipe.model.pretrained, weights="x.pth"))
    assert _last_line(capsys, paper, started, weights).endswith("(published 43.6)")
    # The weights tell the width they were made with; the recipe asks for another model than the published one.
    other = replace(recipe, model=replace(recipe.model, width=6))  # pyright: ignore[reportCallIssue]
    assert "published" not in _last_line(capsys, paper, other, weights)
    elsewhere = replace(PAPER, recipes={"toy": replace(recipe, data=replace(recipe.data, dataset="toy"))})
    assert "published" not in _last_line(capsys, elsewhere, recipe, weights)
