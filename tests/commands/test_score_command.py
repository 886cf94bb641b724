"""`segcore score`: matching by stem, encodings, the scores of the Cityscapes tools, and refusals."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segcore.commands.main import main
from segcore.data import create_dataset
from segcore.data.base import FileDataset, load_classes
from segcore.data.labels import cityscapes_label_ids
from segcore.errors import InputError
from segcore.evaluation.label_folder import (
    CITYSCAPES_CATEGORIES,
    cityscapes_summary,
    count_predictions,
    match_predictions,
)
from segcore.evaluation.metrics import ConfusionMatrix
from segcore.recipe import Data
from tests.data.dataset_trees import SIZE, build, save_list


def open_val(dataset: str, root: Path, list_file: str = "") -> FileDataset:
    data = create_dataset(Data(dataset=dataset), str(root), "val", list_file=list_file)
    assert isinstance(data, FileDataset)
    return data


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


def random_predictions(dataset: FileDataset) -> list[np.ndarray]:
    """Return the label with about a third of the pixels replaced by random classes, for every image."""
    rng = np.random.default_rng(0)
    predictions: list[np.ndarray] = []
    for index in range(len(dataset)):
        label = dataset.load_label(index)
        noise = rng.integers(0, len(dataset.classes.names), SIZE)
        predictions.append(np.where((label == 255) | (rng.random(SIZE) < 0.3), noise, label).astype(np.uint8))
    return predictions


def brute_force(dataset: FileDataset, predictions: list[np.ndarray]) -> np.ndarray:
    """Return the IoU of every class, counted pixel by pixel."""
    labels = np.stack([dataset.load_label(i) for i in range(len(dataset))])
    predicted, is_labeled = np.stack(predictions), labels != 255
    hits = [((labels == k) & (predicted == k)).sum() for k in range(len(dataset.classes.names))]
    either = [(((labels == k) | (predicted == k)) & is_labeled).sum() for k in range(len(dataset.classes.names))]
    return np.array(hits) / np.array(either)


@pytest.mark.parametrize("name", ["bdd100k", "cityscapes label ids", "ade20k", "lip"])
@pytest.mark.parametrize("workers", [1, 3])
def test_scores_equal_a_count_pixel_by_pixel(name: str, workers: int, tmp_path: Path) -> None:
    layout = build(name, tmp_path / "data")
    dataset = open_val(layout.dataset, tmp_path / "data")
    predictions = random_predictions(dataset)
    for item, prediction in zip(dataset.items, predictions, strict=True):
        save(tmp_path / "out" / f"{item.name}.png", prediction)
    counted: list[int] = []
    matrix = count_predictions(tmp_path / "out", dataset, workers=workers, progress=counted.append)
    np.testing.assert_allclose(matrix.scores().iou, brute_force(dataset, predictions))
    assert sum(counted) == 2


def test_predictions_in_parts_and_in_flat_folders_are_found_by_stem(tmp_path: Path) -> None:
    layout = build("cityscapes train ids", tmp_path / "data")
    dataset = open_val("cityscapes", tmp_path / "data")
    first, second = (Path(stem).name for stem in layout.stems[1])
    save(tmp_path / "out/part0" / f"{first}.png", dataset.load_label(0))
    save(tmp_path / "out/part1/results" / f"{second}.png", dataset.load_label(1))
    save(tmp_path / "out/part1/results/of_another_split.png", np.zeros((2, 2)))
    assert count_predictions(tmp_path / "out", dataset).scores().miou == 1.0


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("cityscapes train ids", cityscapes_label_ids),
        ("ade20k", lambda ids: (ids + 1).astype(np.uint8)),
    ],
)
def test_submissions_score_as_the_class_numbers_do(name: str, encode, tmp_path: Path) -> None:
    layout = build(name, tmp_path / "data")
    dataset = open_val(layout.dataset, tmp_path / "data")
    predictions = random_predictions(dataset)
    for item, prediction in zip(dataset.items, predictions, strict=True):
        save(tmp_path / "out" / f"{Path(item.name).name}.png", encode(prediction))
    matrix = count_predictions(tmp_path / "out", dataset, encoding="submission")
    np.testing.assert_allclose(matrix.scores().iou, brute_force(dataset, predictions))


def test_unlabeled_predictions_count_as_wrong(tmp_path: Path) -> None:
    build("bdd100k", tmp_path / "data")
    dataset = open_val("bdd100k", tmp_path / "data")
    label = dataset.load_label(0)
    given = np.where(label == 3, 255, label)
    for item in dataset.items:
        save(tmp_path / "out" / f"{item.name}.png", given)
    scores = count_predictions(tmp_path / "out", dataset).scores()
    assert scores.iou[3] == 0
    assert np.delete(scores.iou, 3).min() == 1


def test_cityscapes_averages_follow_the_rule_of_its_tools() -> None:
    rng = np.random.default_rng(1)
    names = [name for classes in CITYSCAPES_CATEGORIES.values() for name in classes]
    category = {name: group for group, classes in CITYSCAPES_CATEGORIES.items() for name in classes}
    label, prediction = rng.integers(0, 19, (2, 40, 50))
    prediction = np.where(rng.random((40, 50)) < 0.1, 255, prediction)  # pixels without a class
    label = np.where(label == names.index("sky"), 255, label)  # no sky anywhere in the labels
    prediction = np.where(prediction == names.index("sky"), 0, prediction)
    matrix = ConfusionMatrix(19, names=names)
    matrix.update(torch.from_numpy(prediction), torch.from_numpy(label))
    summary = cityscapes_summary(matrix.scores())
    groups = list(CITYSCAPES_CATEGORIES)
    to_group = np.array([groups.index(category[name]) for name in names] + [-1] * 237)
    expected: list[float] = []
    is_labeled = label != 255
    for number, group in enumerate(groups):
        true, guess = (to_group[label] == number) & is_labeled, (to_group[prediction] == number) & is_labeled
        hits = (true & guess).sum()
        union = true.sum() + guess.sum() - hits
        if group == "sky":
            assert np.isnan(summary["IoU.sky"])
            continue
        expected.append(hits / union)
        assert summary[f"IoU.{group}"] == pytest.approx(hits / union)
    assert summary["averageScoreCategories"] == pytest.approx(np.mean(expected))
    assert summary["averageScoreClasses"] == pytest.approx(matrix.scores().miou)


def test_categories_cover_all_classes_once() -> None:
    listed = [name for classes in CITYSCAPES_CATEGORIES.values() for name in classes]
    assert len(listed) == 19
    assert set(listed) == set(load_classes("cityscapes").names)


def test_a_missing_prediction_is_counted_and_named(tmp_path: Path) -> None:
    build("bdd100k", tmp_path / "data")
    dataset = open_val("bdd100k", tmp_path / "data")
    save(tmp_path / "out/val_1.png", np.zeros(SIZE))
    with pytest.raises(InputError, match=r"1 of 2 images have no prediction, the first is val_0.png; .*--list"):
        count_predictions(tmp_path / "out", dataset)
    listing = save_list(tmp_path / "part.txt", ["val_1"])
    part = open_val("bdd100k", tmp_path / "data", str(listing))
    assert count_predictions(tmp_path / "out", part).matrix.sum() > 0


def test_two_predictions_of_one_image_are_refused(tmp_path: Path) -> None:
    for part in ("a", "b"):
        save(tmp_path / part / "val_0.png", np.zeros(SIZE))
    with pytest.raises(InputError, match=r"two predictions of x/val_0: a/val_0.png and b/val_0.png; keep one"):
        match_predictions(tmp_path, ["x/val_0"])
    save(tmp_path / "x/val_0.png", np.zeros(SIZE))  # this one has the image's own path
    assert match_predictions(tmp_path, ["x/val_0"]) == [tmp_path / "x/val_0.png"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((3, 4)), r"val_0.png is 4x3, its label is 32x24 \(width x height\)"),
        (
            np.full(SIZE, 33),
            r"val_0.png holds the value 33, outside the 19 classes.*--encoding submission",
        ),
    ],
)
def test_an_unusable_prediction_is_named(values: np.ndarray, message: str, tmp_path: Path) -> None:
    build("bdd100k", tmp_path / "data")
    for name in ("val_0", "val_1"):
        save(tmp_path / "out" / f"{name}.png", values)
    with pytest.raises(InputError, match=message):
        count_predictions(tmp_path / "out", open_val("bdd100k", tmp_path / "data"))


def test_the_command_prints_classes_categories_and_a_last_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build("cityscapes label ids", tmp_path / "data")
    dataset = open_val("cityscapes", tmp_path / "data")
    predictions = random_predictions(dataset)
    for item, prediction in zip(dataset.items, predictions, strict=True):
        save(tmp_path / "out" / f"{item.name}.png", prediction)
    words = ["--dataset", "cityscapes", "--root", str(tmp_path / "data")]
    assert main(["score", str(tmp_path / "out"), *words, "--eval", "mIoU", "cityscapes"]) == 0
    out = capsys.readouterr().out
    miou = 100 * float(np.nanmean(brute_force(dataset, predictions)))
    assert out.splitlines()[-1] == f"mIoU {miou:.2f}"
    assert f"averageScoreClasses {miou:.2f}" in out
    assert re.search(r"averageScoreCategories \d+\.\d\d\n", out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--dataset", "bdd100k", "--eval", "cityscapes"],
            "--eval cityscapes scores the data set cityscapes",
        ),
        (["--dataset", "bdd100k", "--eval", "mIuO"], "--eval mIuO is unknown; choose from mIoU"),
        (["--dataset", "bdd100k"], "the folder {out} does not exist; expected predicted label maps"),
        (["--dataset", "bdd100k", "--encoding", "submission"], "does not exist"),
        (["--dataset", "toy"], "toy is generated, so no files can be matched"),
    ],
)
def test_impossible_requests_are_one_sentence(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build("bdd100k", tmp_path)
    assert main(["score", str(tmp_path / "out"), "--root", str(tmp_path), *words]) == 2
    assert message.format(out=tmp_path / "out") in capsys.readouterr().err


def test_a_data_set_without_a_test_server_has_no_submission_encoding(tmp_path: Path) -> None:
    build("bdd100k", tmp_path / "data")
    for name in ("val_0", "val_1"):
        save(tmp_path / "out" / f"{name}.png", np.zeros(SIZE))
    with pytest.raises(InputError, match="only ade20k and cityscapes have a test server's encoding, not bdd100k"):
        count_predictions(tmp_path / "out", open_val("bdd100k", tmp_path / "data"), encoding="submission")
