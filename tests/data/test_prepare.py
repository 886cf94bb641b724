"""`segcore data prepare`: values, restart, progress, refusals; each conversion read back by its data set."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segcore.commands.main import main
from segcore.data import create_dataset
from segcore.data.labels import load_metadata
from segcore.data.prepare.cityscapes import draw_label_ids
from segcore.data.prepare.runner import Job, encode_png, run_jobs, write_whole
from segcore.errors import InputError
from segcore.recipe import Data
from tests.data.dataset_trees import (
    CITYSCAPES_IDS,
    LAYOUTS,
    SIZE,
    build,
    labels_of,
    pattern,
    prepare,
    save_image,
    save_label,
    save_polygons,
)
from tests.tiny_relabeling import relabel_and_die, relabel_or_fail

CITY = "gtFine/train/trainville"


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


def times(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(root.rglob("*.png"))}


@pytest.mark.parametrize(
    ("name", "dataset", "converted"),
    [
        ("cityscapes label ids", "cityscapes", "labelTrainIds.png"),
        ("coco-stuff 10k raw", "coco_stuff_10k", "_labelTrainIds.png"),
        ("coco-stuff 164k raw", "coco_stuff_164k", "_labelTrainIds.png"),
    ],
)
def test_converted_files_give_the_labels_of_the_raw_ones(
    name: str, dataset: str, converted: str, tmp_path: Path
) -> None:
    layout = build(name, tmp_path)
    before = {split: labels_of(dataset, tmp_path, split) for split in layout.splits}
    assert prepare(dataset, tmp_path) == 0
    for split, labels in before.items():
        data = create_dataset(Data(dataset=dataset), str(tmp_path), split)
        assert all(str(data.files(i)[1]).endswith(converted) for i in range(2))
        np.testing.assert_array_equal(labels_of(dataset, tmp_path, split), labels)


def test_converted_coco_stuff_10k_still_serves_the_182_classes(tmp_path: Path) -> None:
    layout = build("coco-stuff 10k raw, 182", tmp_path)
    used = [value for value in layout.values if value not in load_metadata("coco_stuff_10k_182")["never_annotated"]]
    raw = [value for value in used if str(value) in load_metadata("coco_stuff_171")["raw_value_to_file_value_10k"]]
    shutil.rmtree(tmp_path)
    layout.build(tmp_path, raw)
    assert prepare("coco_stuff_10k_182", tmp_path) == 0
    expected = pattern([layout.values[value] for value in raw])
    np.testing.assert_array_equal(labels_of("coco_stuff_10k_182", tmp_path, "train")[0], expected)


def test_images_of_coco_stuff_10k_move_into_view_only_when_all_are_there(tmp_path: Path) -> None:
    build("coco-stuff 10k raw", tmp_path)
    missing = tmp_path / "images/COCO_train2014_test1.jpg"
    missing.unlink()
    assert prepare("coco_stuff_10k", tmp_path) == 2
    assert (tmp_path / "images/train2014").is_dir()
    assert not (tmp_path / "images/test2014").exists()
    save_image(missing)
    assert prepare("coco_stuff_10k", tmp_path) == 0
    assert sorted(path.name for path in (tmp_path / "images/test2014").iterdir()) == [
        "COCO_train2014_test0.jpg",
        "COCO_train2014_test1.jpg",
    ]


POLYGON_LABELS = [
    ("road", [(0, 0), (31, 0), (31, 23), (0, 23)]),
    ("car", [(4, 4), (12, 4), (12, 12), (4, 12)]),
    ("license plate", [(6, 6), (8, 6), (8, 8), (6, 8)]),
    ("cargroup", [(20, 2), (24, 2), (24, 6), (20, 6)]),
    ("out of roi", [(0, 20), (31, 20), (31, 23), (0, 23)]),
    ("person", [(10, 10), (14, 10), (14, 14), (10, 14)]),
]


def test_polygons_are_drawn_in_order_without_deleted_ones_and_license_plates(tmp_path: Path) -> None:
    path = save_polygons(tmp_path / "a_gtFine_polygons.json", POLYGON_LABELS, deleted=["sky"])
    label = draw_label_ids(path)
    assert label.shape == SIZE
    assert label[0, 0] == 7  # road
    assert label[5, 5] == label[7, 7] == 26  # car, also under its license plate
    assert label[4, 22] == 26  # a group of cars is cars
    assert label[11, 11] == 24  # the person comes after the car
    assert label[21, 5] == 3  # out of roi
    assert set(np.unique(label)) == {3, 7, 24, 26}
    save_polygons(path, [("sky", [(0, 0), (3, 0), (3, 3), (0, 3)])])
    assert draw_label_ids(path)[10, 10] == 0  # unlabeled


def test_polygons_alone_are_enough(tmp_path: Path) -> None:
    build("cityscapes label ids", tmp_path)
    for split in ("train", "val"):
        for path in (tmp_path / "gtFine" / split).rglob("*labelIds.png"):
            save_polygons(path.with_name(path.name.replace("labelIds.png", "polygons.json")), POLYGON_LABELS)
            path.unlink()
    assert prepare("cityscapes", tmp_path) == 0
    label = labels_of("cityscapes", tmp_path, "val")[0]
    assert (label[0, 0], label[5, 5], label[11, 11], label[21, 5]) == (0, 13, 11, 255)
    assert len(list(tmp_path.rglob("*_gtFine_labelIds.png"))) == 4


def test_label_ids_of_the_release_are_never_drawn_again(tmp_path: Path) -> None:
    build("cityscapes label ids", tmp_path)
    path = next((tmp_path / "gtFine/val").rglob("*_000000_000019_gtFine_labelIds.png"))
    save_polygons(path.with_name(path.name.replace("labelIds.png", "polygons.json")), POLYGON_LABELS)
    before = path.read_bytes()
    assert prepare("cityscapes", tmp_path, "--force") == 0
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no Cityscapes annotation"),
        ('{"objects": []}', "is no Cityscapes annotation"),
        ('{"imgHeight": 4, "imgWidth": 4, "objects": [{"label": "road", "polygon": [[1, 1]]}]}', "annotation"),
        ('{"imgHeight": 4, "imgWidth": 4, "objects": [{"label": "moon", "polygon": []}]}', "unknown label 'moon'"),
    ],
)
def test_a_broken_polygon_file_is_named(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a_gtFine_polygons.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        draw_label_ids(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "dataset", "wrong", "place"),
    [
        (
            "cityscapes label ids",
            "cityscapes",
            40,
            "gtFine/train/trainville/trainville_000000_000019_gtFine_labelIds.png",
        ),
        ("coco-stuff 10k raw", "coco_stuff_10k", 12, "annotations/COCO_train2014_train0.mat"),
        ("coco-stuff 10k raw", "coco_stuff_10k", 183, "annotations/COCO_train2014_train0.mat"),
        ("coco-stuff 164k raw", "coco_stuff_164k", 11, "annotations/train2017/train2017_0.png"),
    ],
)
def test_an_unknown_label_id_is_an_error_that_names_the_file(
    name: str, dataset: str, wrong: int, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = LAYOUTS[name]
    layout.build(tmp_path, [*layout.values, wrong])
    assert prepare(dataset, tmp_path) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / place} holds the unknown label id {wrong}; expected" in error
    assert error.count("\n") == 1


def test_a_second_run_keeps_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build("cityscapes label ids", tmp_path)
    prepare("cityscapes", tmp_path)
    assert "wrote 4 label files" in capsys.readouterr().out
    before = times(tmp_path)
    next(tmp_path.rglob("*labelTrainIds.png")).unlink()
    assert prepare("cityscapes", tmp_path) == 0
    assert "wrote 1 label files" in (out := capsys.readouterr().out)
    assert "kept 3" in out
    after = times(tmp_path)
    assert sum(before[path] != after[path] for path in before) == 1


def test_existing_files_change_only_with_force(tmp_path: Path) -> None:
    layout = build("coco-stuff 164k raw", tmp_path)
    mine = save_label(tmp_path / "annotations/val2017/val2017_0_labelTrainIds.png", [7])
    assert prepare("coco_stuff_164k", tmp_path) == 0
    np.testing.assert_array_equal(read(mine), 7)
    assert prepare("coco_stuff_164k", tmp_path, "--force") == 0
    np.testing.assert_array_equal(read(mine), pattern(list(layout.values.values())))


def test_a_cut_off_file_is_reported_and_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build("coco-stuff 164k raw", tmp_path)
    broken = save_label(tmp_path / "annotations/val2017/val2017_0_labelTrainIds.png", [7])
    broken.write_bytes(broken.read_bytes()[:-4])
    size = broken.stat().st_size
    assert prepare("coco_stuff_164k", tmp_path) == 2
    assert f"{broken} exists but is no whole PNG; remove it, or pass --force" in capsys.readouterr().err
    assert broken.stat().st_size == size
    assert prepare("coco_stuff_164k", tmp_path, "--force") == 0
    read(broken)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stopped_run_goes_on_where_it_was(processes: int, tmp_path: Path) -> None:
    def jobs(bad: int) -> list[Job]:
        return [Job(tmp_path / f"{i:02}.png", relabel_or_fail, (f"file {i}", i == bad)) for i in range(40)]

    with pytest.raises(InputError, match="file 37 is unusable"):
        run_jobs(jobs(37), "test", processes=processes)
    done = times(tmp_path)
    assert 20 <= len(done) < 40
    assert not list(tmp_path.glob(".*"))
    counts = run_jobs(jobs(-1), "test", processes=processes)
    assert (counts.written, counts.kept) == (40 - len(done), len(done))
    assert all(times(tmp_path)[path] == time for path, time in done.items())


def test_a_killed_worker_is_one_sentence(tmp_path: Path) -> None:
    jobs = [Job(tmp_path / f"{i}.png", relabel_and_die, ()) for i in range(20)]
    with pytest.raises(InputError, match=r"ended from outside .*finished files are kept"):
        run_jobs(jobs, "test", processes=2)


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a.png", encode_png(np.zeros(SIZE, np.uint8)))
    assert list(tmp_path.iterdir()) == []
    job = Job(tmp_path / "a.png", relabel_or_fail, ("a", False))
    with pytest.raises(InputError, match=r"cannot write .*a.png: No space left on device; the next run goes on"):
        run_jobs([job], "test", processes=1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lip", "--root", "."], "lip is read as it is published: there is nothing to prepare"),
        (["citiscapes", "--root", "."], "did you mean 'cityscapes'?"),
        (["cityscapes", "--root", "nowhere"], "the folder nowhere does not exist; --root"),
        (["cityscapes", "--root", "."], "Cityscapes: expected gtFine/train/CITY/"),
        (["coco_stuff_10k", "--root", "."], "expected the list imageLists/train.txt of the release"),
        (["coco_stuff_164k", "--root", "."], "COCO-Stuff 164k: expected annotations/train2017/*.png"),
        (["pascal_context_60", "--root", "."], "Pascal Context: . has no JPEGImages"),
        (["cityscapes", "--root", ".", "--source", "x"], "--source is for Pascal Context only"),
        (["cityscapes", "--root", ".", "--processes", "-1"], "--processes must not be negative"),
    ],
)
def test_impossible_requests_are_one_sentence(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "prepare", *words]) == 2
    assert message in capsys.readouterr().err


def test_label_ids_of_every_train_id_survive_the_round_trip(tmp_path: Path) -> None:
    LAYOUTS["cityscapes label ids"].build(tmp_path, CITYSCAPES_IDS)
    assert prepare("cityscapes", tmp_path) == 0
    np.testing.assert_array_equal(labels_of("cityscapes", tmp_path, "train")[0], pattern(range(19)))
