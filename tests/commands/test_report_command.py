"""The report: what it reads from a work directory, and that the page shows it completely."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from segcore.commands.report import main
from segcore.commands.test import TestOptions
from segcore.commands.test import test as run_test
from segcore.errors import InputError
from segcore.evaluation.score_files import ScoredImages, ScoreFile, file_hash, score_path, write_score
from segcore.pages.page import Note, Section
from segcore.pages.render import render
from segcore.paper import Paper
from segcore.recipe import Augment, Data, Evaluate, Model, Optim, Published, Recipe, Schedule
from segcore.recipe.file import recipe_document
from segcore.recipe.plain import to_plain
from segcore.report.gallery import write_gallery
from segcore.report.run_page import run_page
from segcore.report.run_report import Picture, RunReport, collect, read_gallery
from segcore.training.loop import train
from segcore.training.run_folder import read_log
from segcore.weights.files import read_checkpoint, save_weights
from segcore.weights.header import CheckpointMeta
from tests.data.test_folder import make_split_folder
from tests.report.sample import NAMES, PALETTE, sample_report
from tests.tiny_paper import PAPER as TINY


def _page(report: RunReport) -> str:
    return render(run_page(report))


def test_headline_numbers_and_class_scores_are_on_the_page() -> None:
    page = _page(sample_report())
    for text in ("61.54", "62.88", "published 43.6", "4.35", "3 min 10 s", "50 images tested", "torch 2.9"):
        assert text in page
    row = r'background:(#\w+)"></i><span class="name"[^>]*>&lt;script.*?data-value="([^"]*)"'
    assert re.search(row, page, re.DOTALL).groups() == ("#0000ff", "25.0")  # type: ignore[union-attr]
    assert page.count("<tr>") == 1 + len(NAMES)


def test_sections_of_the_paper_are_shown() -> None:
    page = _page(replace(sample_report(), sections=(Section("What <b> holds", (Note("a & b"),)),)))
    assert "<h2>What &lt;b&gt; holds</h2>" in page
    assert "a &amp; b" in page


def test_a_curve_without_a_point_says_so() -> None:
    page = _page(sample_report())
    assert "Learning rate: nothing was logged." in page
    assert page.count('class="chart panel"') == 3  # loss, mIoU, bars of the classes


def test_the_multi_scale_card_is_left_out_where_it_was_not_tested() -> None:
    report = sample_report()
    assert "multi-scale" in _page(report)
    assert "multi-scale" not in _page(replace(report, scores_ms={}))


def _embedded(page: str) -> list[np.ndarray]:
    """Decode the pictures of a page, BGR (H, W, 3)."""
    images: list[np.ndarray] = []
    for text in re.findall(r"<img [^>]*src=\"data:image/\w+;base64,([^\"]+)", page):
        image = cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        images.append(image)
    return images


def test_embedded_label_prediction_and_error_hold_the_exact_colors() -> None:
    report = sample_report()
    picture = report.gallery[0]
    assert picture.label is not None
    image, label, prediction, error = _embedded(_page(report))
    assert np.abs(image.astype(int) - picture.image).max() < 12  # JPEG
    palette = np.array(PALETTE, np.uint8)
    np.testing.assert_array_equal(prediction[..., ::-1], palette[picture.prediction])
    is_labeled = picture.label != 255
    np.testing.assert_array_equal(label[..., ::-1][is_labeled], palette[picture.label[is_labeled]])
    is_wrong = is_labeled & (picture.label != picture.prediction)
    np.testing.assert_array_equal(error[..., ::-1][is_wrong], palette[picture.label[is_wrong]])
    assert (error[is_labeled & ~is_wrong] == error[is_labeled & ~is_wrong][0]).all()


def test_wide_pictures_are_embedded_smaller() -> None:
    picture = Picture("wide", np.zeros((100, 2000, 3), np.uint8), None, np.zeros((100, 2000), np.uint8))
    page = _page(replace(sample_report(), gallery=(picture,)))
    shapes = [image.shape for image in _embedded(page)]
    assert shapes == [(26, 512, 3)] * 2  # image and prediction: no label, no error map


def test_a_gallery_is_read_back_as_it_was_written_and_replaces_an_earlier_one(tmp_path: Path) -> None:
    picture = sample_report().gallery[0]
    unlabeled = Picture("b/unlabeled", picture.image[:10], None, picture.prediction[:10])
    write_gallery(tmp_path, [picture] * 5)
    write_gallery(tmp_path, [replace(picture, name="a/first"), unlabeled])
    first, second = read_gallery(tmp_path)
    assert (first.name, second.name) == ("a_first", "b_unlabeled")
    np.testing.assert_array_equal(first.image, picture.image)
    np.testing.assert_array_equal(first.label, picture.label)  # type: ignore[arg-type]
    np.testing.assert_array_equal(second.prediction, unlabeled.prediction)
    assert second.label is None


def test_a_log_keeps_the_later_of_two_equal_iterations_and_drops_a_cut_last_line(tmp_path: Path) -> None:
    lines = [{"mode": "train", "iteration": i, "loss": loss} for i, loss in ((10, 3.0), (20, 2.0), (20, 1.0))]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines) + '\n{"mode": "tr')
    assert [line["loss"] for line in read_log(path)] == [3.0, 1.0]


@pytest.mark.parametrize(
    "line",
    [
        b'{"mode": ',
        b'{"mode": "train", "iteration": 1, "loss": \xff}',
        b"[1, 2]",
        b"null",
        b'{"mode": "train"}',
        b'{"mode": "test", "iteration": 1}',
        b'{"mode": ["train"], "iteration": 1}',
        b'{"mode": "train", "iteration": "1"}',
        b'{"mode": "train", "iteration": -1}',
        b'{"mode": "train", "iteration": 1' + b"0" * 5000 + b"}",
        b'{"mode": "train", "iteration": 1, "loss": 1e400}',
        b'{"mode": "train", "iteration": 1, "loss": "low"}',
        b'{"mode": "train", "iteration": 1, "time": {}}',
        b"[" * 100_000,
    ],
)
def test_a_line_that_is_none_of_a_log_is_one_sentence(tmp_path: Path, line: bytes) -> None:
    """Issue 18."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(line + b'\n{"mode": "train", "iteration": 1, "loss": 3.0}\n')
    with pytest.raises(InputError, match=r"log\.jsonl, line 1 is no line of a log \(.*\); remove the line"):
        read_log(path)


def test_numbers_of_a_log_without_sense_leave_a_page(tmp_path: Path) -> None:
    _write_run(tmp_path)
    line = {"mode": "train", "iteration": 10**17, "images_per_second": 1e-300, "time": 1e17, "loss": -1e17, "lr": 0}
    (tmp_path / "log.jsonl").write_text(json.dumps(line) + "\n")
    assert "100000000000000000 iterations" in _page(collect(tmp_path, {}))


@pytest.mark.parametrize("name", ["x" * 240, "ü" * 120, "a/" * 110 + "b"])
def test_pictures_of_long_names_are_in_the_gallery(tmp_path: Path, name: str) -> None:
    picture = replace(sample_report().gallery[0], name=name)
    write_gallery(tmp_path, [picture, picture])
    assert [one.name[0] for one in read_gallery(tmp_path)] == [name[0]] * 2


def _write_run(folder: Path) -> None:
    recipe = Recipe(
        model=Model(backbone="x"),
        data=Data(dataset="toy", batch=4, val_split="val", test_split="test"),
        augment=Augment(),
        optim=Optim(lr=0.1),
        schedule=Schedule(iterations=20),
        evaluate=Evaluate(),
        published=Published(params=9.4),
    )
    versions = {"torch": "2.9"}
    (folder / "recipe.json").write_text(recipe_document("unknown-paper", "toy", recipe, versions))
    train = {"mode": "train", "images_per_second": 8.0, "lr": 0.1, "time": 1.7e9}
    lines = [
        {**train, "iteration": 10, "loss": 2.0},
        {"mode": "val", "iteration": 10, "mIoU": 0.3, "time": 1.7e9},
        {**train, "iteration": 20, "loss": None},
        {"mode": "val", "iteration": 20, "mIoU": 0.5, "IoU.sky": None, "time": 1.7e9 + 60},
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tensors = {"w": torch.zeros(7, 3), "bn.running_mean": torch.zeros(9), "bn.num_batches_tracked": torch.tensor(1)}
    meta = CheckpointMeta(
        paper="unknown-paper",
        recipe_name="toy",
        recipe=to_plain(recipe),
        classes=NAMES,
        palette=PALETTE,
        iteration=20,
        scores={"mIoU": 0.5},
        versions=versions,
    )
    save_weights(folder / "best.safetensors", tensors, meta)


def test_a_work_directory_is_collected(tmp_path: Path) -> None:
    _write_run(tmp_path)
    report = collect(tmp_path, {})
    assert (report.paper, report.recipe_name, report.iterations) == ("unknown-paper", "toy", 20)
    assert report.parameters == 21  # running statistics are not parameters
    assert report.seconds == pytest.approx(20 * 4 / 8.0)
    assert report.losses[0].points == ((10.0, 2.0),)  # the null of a NaN is left out
    assert report.mious[0].points == ((10.0, 0.3), (20.0, 0.5))
    assert report.scores == {"mIoU": 0.5}
    assert report.scores_ms == {}
    assert report.published.params == 9.4
    assert report.date.startswith("2023-11-14")


def _write_score(
    folder: Path, miou: float, *, time: str = "1", data: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """Write a score of the run's weights on its test images under its protocol, or with changes of these."""
    images = ScoredImages.of(replace(Data(dataset="toy", test_split="test"), **(data or {})), "")
    settings = {"sha256": file_hash(folder / "best.safetensors"), "protocol": Evaluate(), **changes}
    score = ScoreFile(
        weights="best.safetensors",
        paper="unknown-paper",
        recipe="toy",
        data=images,
        images=33,
        amp="off",
        time=time,
        metric={"mIoU": miou},
        **settings,
    )
    path = score_path(folder, folder / "best.safetensors", images, score.protocol)
    path = path.with_name(f"{path.stem[:-8]}{len([*folder.iterdir()]):08x}.json")  # another name each time
    write_score(path, score)
    return path


def test_the_newest_score_of_each_protocol_is_shown(tmp_path: Path) -> None:
    _write_run(tmp_path)
    for time, miou in (("2026-01-02", 0.7), ("2026-01-01", 0.1)):
        _write_score(tmp_path, miou, time=time)
        _write_score(tmp_path, miou + 0.1, time=time, protocol=Evaluate().with_augmentation())
    report = collect(tmp_path, {})
    assert (report.scores["mIoU"], report.num_images) == (0.7, 33)
    assert report.scores_ms["mIoU"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"sha256": "0" * 64}, "weights"),
        ({"data": {"dataset": "camvid"}}, "images or another protocol"),
        ({"data": {"test_split": "train"}}, "images or another protocol"),
        ({"data": {"test_list": "some.txt"}}, "images or another protocol"),
        ({"data": {"num_images": (400, 51)}}, "images or another protocol"),
        ({"protocol": Evaluate(scale=(64, 64))}, "images or another protocol"),
        ({"protocol": Evaluate(flip=True)}, "images or another protocol"),
    ],
)
def test_a_score_of_other_weights_images_or_protocols_is_not_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], what: str
) -> None:
    _write_run(tmp_path)
    path = _write_score(tmp_path, 0.99, **changes)
    report = collect(tmp_path, {})
    assert (report.scores["mIoU"], report.scores_from) == (0.5, "last validation (val)")
    assert caplog.messages == [f"{path} is not shown: it is a score of other {what}"]


def test_what_does_not_change_a_prediction_makes_no_other_score(tmp_path: Path) -> None:
    _write_run(tmp_path)
    _write_score(tmp_path, 0.7, protocol=Evaluate(window_batch=2, aug_ratios=(1.0, 2.0)))
    assert collect(tmp_path, {}).scores["mIoU"] == 0.7


def test_scores_of_another_split_are_shown_where_it_is_asked_for(tmp_path: Path) -> None:
    _write_run(tmp_path)
    _write_score(tmp_path, 0.7)
    _write_score(tmp_path, 0.6, data={"test_split": "val"})
    assert main([str(tmp_path), "--keep-gallery", "--split", "val"]) == 0
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "toy (val)" in page
    assert "60.00" in page
    assert "70.00" not in page


def test_a_damaged_score_file_is_one_sentence_and_not_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _write_run(tmp_path)
    _write_score(tmp_path, 0.7).write_text("{")
    assert collect(tmp_path, {}).scores_from == "last validation (val)"
    assert "is not readable as JSON" in caplog.text
    assert "delete the file and test again" in caplog.text


def test_scores_of_a_validation_are_not_shown_as_a_test(tmp_path: Path) -> None:
    _write_run(tmp_path)
    report = collect(tmp_path, {})
    assert (report.dataset, report.scores_from) == ("toy (val)", "last validation (val)")
    page = _page(report)
    assert "mIoU, last validation (val)" in page
    assert "Percent, last validation (val)." in page
    assert "single scale" not in page
    assert "images tested" not in page


def test_scores_of_a_test_are_shown_with_its_split(tmp_path: Path) -> None:
    _write_run(tmp_path)
    _write_score(tmp_path, 0.7, protocol=Evaluate().with_augmentation())
    only_multi = collect(tmp_path, {})
    assert (only_multi.dataset, only_multi.scores_from) == ("toy (test)", "last validation (val)")
    _write_score(tmp_path, 0.7)
    report = collect(tmp_path, {})
    assert (report.dataset, report.scores_from) == ("toy (test)", "single scale")
    page = _page(report)
    assert "mIoU, single scale" in page
    assert "33 images tested" in page
    assert "validation (" not in page


def test_the_command_writes_the_page_of_a_run_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write_run(tmp_path)
    assert main([str(tmp_path), "--keep-gallery"]) == 0
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "no pictures were made" in page
    assert str(tmp_path / "report.html") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("section", "values", "sentence"),
    [
        ("published", {"miou": "abc"}, r"recipe\.json: published: miou: expected float \| null, got str"),
        ("data", {"batch": 0}, r"recipe\.json: data: --data\.batch must be at least 1"),
    ],
)
def test_a_damaged_recipe_is_no_page(tmp_path: Path, section: str, values: dict[str, object], sentence: str) -> None:
    _write_run(tmp_path)
    document = json.loads((tmp_path / "recipe.json").read_text())
    document["recipe"][section].update(values)
    (tmp_path / "recipe.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=sentence):
        collect(tmp_path, {})


def test_a_folder_without_a_run_is_explained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"recipe\.json.*work directory"):
        collect(tmp_path, {})
    _write_run(tmp_path)
    (tmp_path / "best.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no weights: none of .*best\.safetensors and last\.safetensors"):
        main([str(tmp_path)])
    (tmp_path / "log.jsonl").unlink()
    with pytest.raises(InputError, match=r"log\.jsonl"):
        collect(tmp_path, {})


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Paper:
    """The tiny paper, installed."""
    for module in ("segcore.build", "segcore.report.build"):
        monkeypatch.setattr(f"{module}.load_paper", lambda _: TINY)
    return TINY


def test_the_page_does_not_show_another_checkpoints_score(tmp_path: Path, tiny: Paper) -> None:
    recipe = tiny.recipes["toy"]
    recipe = replace(recipe, run=replace(recipe.run, work_dir=str(tmp_path / "run"), device="cpu"))
    train(tiny, "toy", recipe)
    best, other = tmp_path / "run" / "best.safetensors", tmp_path / "other.safetensors"
    loaded = read_checkpoint(best)
    assert loaded.meta is not None
    worse = {name: torch.zeros_like(tensor) for name, tensor in loaded.tensors.items()}
    save_weights(other, worse, loaded.meta)
    scores = run_test(tiny, "toy", recipe, TestOptions(checkpoint=str(best)))
    of_other = run_test(tiny, "toy", recipe, TestOptions(checkpoint=str(other)))
    assert scores is not None
    assert of_other is not None
    report = collect(tmp_path / "run", {})
    assert report.scores["mIoU"] == pytest.approx(scores.miou, abs=1e-4)
    assert abs(scores.miou - of_other.miou) > 1e-3


def test_ones_own_data_without_test_images_are_tested_and_reported_from_any_folder(
    tmp_path: Path, tiny: Paper, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_split_folder(tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    recipe = tiny.recipes["toy"]
    data = replace(recipe.data, dataset="folder", test_split="test")
    recipe = replace(recipe, data=data, run=replace(recipe.run, work_dir="run", data="own", device="cpu"))
    train(tiny, "toy", recipe)
    scores = run_test(tiny, "toy", recipe, TestOptions(checkpoint="run/best.safetensors"))
    assert scores is not None
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main([str(tmp_path / "run"), "--device", "cpu"]) == 0
    report = collect(tmp_path / "run", {})
    assert (report.dataset, report.num_images, len(report.gallery)) == ("folder (val)", 2, 2)
    assert report.scores["mIoU"] == pytest.approx(scores.miou, abs=1e-4)
    assert "has no test split: its validation images (split val) are taken instead" in caplog.text
