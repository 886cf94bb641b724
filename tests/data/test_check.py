"""`segcore data check`: counts, histogram and faults of a whole data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segcore.commands import data_check, data_list
from segcore.data.check import MAX_EXAMPLES, check_dataset
from segcore.data.folder import FolderDataset
from segcore.errors import InputError
from tests.data.test_datasets import SIZE, noise, save
from tests.data.test_folder import make_folder

PIXELS = SIZE[0] * SIZE[1]


def spoil(root: Path) -> None:
    """Give a folder data set of 12 images one fault of every kind, and a second unreadable image."""
    for name in ("01", "02"):
        (root / "images" / f"{name}.jpg").write_bytes(b"\xff\xd8 nothing")
    (root / "masks" / "03.png").write_text("nothing")
    (root / "masks" / "04.png").unlink()
    save(root / "masks" / "05.png", np.ones((SIZE[0], SIZE[1] + 1), np.uint8))
    save(root / "masks" / "06.png", np.full(SIZE, 77, np.uint8))


def test_a_clean_data_set_is_counted(tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    half = np.zeros(SIZE, np.uint8)
    half[: SIZE[0] // 2] = 255
    save(root / "masks" / "01.png", half)
    save(root / "images" / "02.jpg", noise(size=(20, 30)))
    save(root / "masks" / "02.png", np.ones((20, 30), np.uint8))
    report = check_dataset(FolderDataset(root, "train"), workers=3)
    assert report.is_clean
    assert (report.images, report.labels) == (10, 10)
    assert report.pixels.tolist() == [PIXELS // 2, 8 * PIXELS + 600]
    assert report.images_with.tolist() == [1, 9]
    assert report.ignored == PIXELS // 2
    assert (report.smallest, report.largest) == (SIZE, (20, 30))
    assert report.percent().sum() == pytest.approx(100)


@pytest.mark.parametrize("workers", [1, 4])
def test_checking_goes_on_after_faults_and_keeps_them_in_order(tmp_path: Path, workers: int) -> None:
    root = make_folder(tmp_path)
    spoil(root)
    report = check_dataset(FolderDataset(root, "train", check_files=False), workers=workers)
    counts = {kind: faults.count for kind, faults in report.faults.items()}
    assert counts == {
        "unreadable image": 2,
        "unreadable label": 1,
        "missing label": 1,
        "size mismatch": 1,
        "values outside the classes": 1,
    }
    unreadable = report.faults["unreadable image"].messages
    assert ["01.jpg" in unreadable[0], "02.jpg" in unreadable[1]] == [True, True]
    assert "06.png holds the value 77" in report.faults["values outside the classes"].messages[0]
    assert report.images == 10
    assert not report.is_clean


def test_a_mask_of_the_wrong_size_is_not_counted_as_usable(tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    save(root / "masks" / "05.png", np.ones((SIZE[0], SIZE[1] + 1), np.uint8))
    (root / "images" / "06.jpg").write_bytes(b"\xff\xd8 nothing")
    report = check_dataset(FolderDataset(root, "train"))
    assert (report.images, report.labels) == (10, 8)
    assert report.pixels.tolist() == [0, 8 * PIXELS]
    assert report.faults["size mismatch"].names == ["05"]


def test_examples_of_a_class_are_the_images_with_most_of_it(tmp_path: Path) -> None:
    root = make_folder(tmp_path, value=0)
    for name, rows in (("03", 1), ("07", 4), ("09", 2)):
        label = np.zeros(SIZE, np.uint8)
        label[:rows] = 1
        save(root / "masks" / f"{name}.png", label)
    report = check_dataset(FolderDataset(root, "train"))
    assert report.examples[1] == [(4 * SIZE[1], "07"), (2 * SIZE[1], "09"), (SIZE[1], "03")]
    assert len(report.examples[0]) == MAX_EXAMPLES


def test_images_without_annotation_are_counted_without_a_histogram(tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    for split in ("train", "test"):
        save(root / "images" / split / "x.jpg", noise())
    report = check_dataset(FolderDataset(root, "test"), workers=1)
    assert report.is_clean
    assert (report.images, report.labels) == (1, 0)
    assert report.percent().tolist() == [0, 0]


def test_the_table_shows_every_class_and_every_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path)
    spoil(root)
    assert data_check.main(["folder", "--root", str(root), "--split", "train"]) == 2
    text = capsys.readouterr().out
    for part in ("folder, split train", "road", "car", "100.000", "2 x unreadable image", "06.png"):
        assert part in text


def test_twenty_faulty_files_of_a_kind_are_named_and_the_rest_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder(tmp_path)
    for number in range(23):
        name = f"x{number:02d}"
        save(root / "images" / f"{name}.jpg", noise())
        (root / "masks" / f"{name}.png").write_text("nothing")
    listing = tmp_path / "list.txt"
    listing.write_text("".join(f"x{number:02d}\n" for number in range(23)))
    assert data_check.main(["folder", "--root", str(root), "--split", "val", "--list", str(listing)]) == 2
    text = capsys.readouterr().out
    assert "23 x unreadable label:" in text
    assert [f"x{number:02d}.png" in text for number in range(23)] == [True] * 20 + [False] * 3
    assert "and 3 more" in text


def test_the_command_returns_2_where_files_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path, classes="car\n", value=0)
    assert data_check.main(["folder", "--root", str(root)]) == 0
    assert capsys.readouterr().out.count("no faults") == 2
    spoil(root)
    assert data_check.main(["folder", "--root", str(root), "--split", "val"]) == 0
    assert data_check.main(["folder", "--root", str(root), "--split", "train", "--split", "val"]) == 2
    assert "holds the value 77" in capsys.readouterr().out


def test_the_command_passes_options_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path, value=9)
    names = tmp_path / "names.txt"
    names.write_text("earth\nwater\nair\n")
    listing = tmp_path / "list.txt"
    listing.write_text("05\n")
    options = ["--classes", str(names), "--ignore", "9", "--list", str(listing), "--split", "train", "--workers", "1"]
    assert data_check.main(["folder", "--root", str(root), *options]) == 0
    output = capsys.readouterr().out
    assert "1 images" in output
    assert "water" in output


def test_the_command_raises_one_sentence_for_a_missing_root(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--run\.data"):
        data_check.main(["camvid", "--root", str(tmp_path / "nowhere")])


def test_the_list_names_every_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert data_list.main([]) == 0
    output = capsys.readouterr().out
    for name in ("toy", "folder", "camvid", "ade20k"):
        assert name in output
