"""FolderDataset: the user's own images and masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.data import choose_test_split, create_dataset
from segcore.data.folder import FolderDataset, read_classes
from segcore.data.read import DataFileError
from segcore.errors import InputError
from segcore.recipe import Data
from tests.data.test_datasets import SIZE, noise, save


def make_folder(root: Path, num_images: int = 12, value: int = 1, classes: str = "road\ncar\n") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text(classes)
    for number in range(num_images):
        save(root / "images" / f"{number:02d}.jpg", noise(number))
        save(root / "masks" / f"{number:02d}.png", np.full(SIZE, value, np.uint8))
    return root


def test_a_folder_without_splits_validates_on_every_tenth_image(tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    names = {split: [item.name for item in FolderDataset(root, split).items] for split in ("train", "val", "test")}
    assert names["val"] == ["00", "10"]
    assert names["test"] == names["val"]
    assert len(names["train"]) == 10
    assert not set(names["train"]) & set(names["val"])


def test_a_folder_with_splits_uses_them(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["a", "b"], "palette": [[1, 2, 3], [4, 5, 6]]}))
    for split in ("train", "val"):
        save(tmp_path / "images" / split / "deep" / "x.PNG", noise())
        save(tmp_path / "masks" / split / "deep" / "x.png", np.ones(SIZE, np.uint8))
    save(tmp_path / "images" / "test" / "y.jpeg", noise())
    dataset = FolderDataset(tmp_path, "train")
    assert dataset.load(0).name == "deep/x"
    assert dataset.classes.palette.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert FolderDataset(tmp_path, "test").load(0).label is None


def test_the_ignore_value_of_a_folder_becomes_255(tmp_path: Path) -> None:
    root = make_folder(tmp_path, value=9)
    data = Data(dataset="folder", ignore=9)
    assert np.unique(create_dataset(data, str(root), "val").load_label(0)).tolist() == [255]
    with pytest.raises(DataFileError, match="holds the value 9, outside the 2 classes"):
        FolderDataset(root, "val").load(0)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: (root / "classes.txt").unlink(), r"expected .*classes\.txt"),
        (lambda root: (root / "classes.txt").write_text("a\na\n"), "'a' occurs more than once"),
        (lambda root: (root / "classes.txt").write_text("\n"), "got 0"),
        (lambda root: save(root / "images" / "00.png", noise()), "both 00.jpg and 00.png"),
        (lambda root: (root / "masks" / "03.png").unlink(), r"03\.jpg has no label"),
        (lambda root: [p.rename(p.with_suffix(".jpg")) for p in (root / "masks").glob("*")], "JPEG masks"),
        (lambda root: [p.unlink() for p in (root / "images").glob("*")], "found none"),
        (
            lambda root: (
                [p.unlink() for p in (root / "images").glob("*[1-9].jpg")] and (root / "images/10.jpg").unlink()
            ),
            "one image",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(
    tmp_path: Path, break_it: Callable[[Path], object], message: str
) -> None:
    root = make_folder(tmp_path)
    break_it(root)
    with pytest.raises(InputError, match=message):
        FolderDataset(root, "train")


@pytest.mark.parametrize(
    "content",
    [
        '{"names": ["a"]}',
        '["a", 3]',
        "not json",
        '{"classes": ["a"], "palette": [[1, 2]]}',
        '{"classes": ["a"], "palette": [[1, 2, 300]]}',
        pytest.param("[" * 100_000, id="deep"),
        pytest.param('{"classes": ["a"], "palette": [[1, 2, 1' + "0" * 5000 + "]]}", id="many digits"),
        '["a", "\\ud800"]',
        '["a", "b\\u0000"]',
    ],
)
def test_a_wrong_class_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "classes.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"classes\.json"):
        read_classes(path)


def test_masks_may_have_a_value_of_their_own_for_each_class(tmp_path: Path) -> None:
    root = make_folder(tmp_path, value=255)
    save(root / "masks" / "10.png", np.full(SIZE, 9, np.uint8))
    data = Data(dataset="folder", mask_values=(9, 255))
    dataset = create_dataset(data, str(root), "val")
    assert [np.unique(dataset.load_label(i)).tolist() for i in range(2)] == [[1], [0]]
    other = create_dataset(Data(dataset="folder", mask_values=(0, 9), ignore=8), str(root), "val")
    assert np.unique(other.load_label(0)).tolist() == [255]  # none of the values
    with pytest.raises(DataFileError, match=r"holds the value 9, outside .* --data\.mask-values"):
        create_dataset(Data(dataset="folder", mask_values=(0, 1)), str(root), "val").load(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_values": (0, 1, 2)}, "--data.mask-values must be 2 different values, one for each class, got 0 1 2"),
        ({"mask_values": (3, 3)}, "--data.mask-values must be 2 different values"),
        ({"mask_values": (0, 7), "ignore": 7}, "--data.ignore 7 is among --data.mask-values, the value of car"),
    ],
)
def test_impossible_mask_values_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    with pytest.raises(InputError, match=message):
        create_dataset(Data(dataset="folder", **options), str(root), "val")


def names(root: Path, split: str, **options: str) -> list[str]:
    return [item.name for item in FolderDataset(root, split, **options).items]


def test_lists_in_the_root_are_the_splits_of_a_folder(tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    (root / "train.txt").write_text("00\n10\n03\n")
    (root / "val.txt").write_text("04\n")
    assert names(root, "train") == ["00", "10", "03"]
    assert names(root, "val") == ["04"]
    with pytest.raises(InputError, match=r"cannot read the list file .*test\.txt"):
        names(root, "test")


def test_a_list_chooses_among_all_images_of_a_folder_without_splits(tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    listing = tmp_path / "mine.txt"
    listing.write_text("10\n05\n")
    for split in ("train", "val", "train+val"):
        assert names(root, split, list_file=str(listing)) == ["10", "05"]


def make_split_folder(root: Path, splits: tuple[str, ...] = ("train", "val")) -> Path:
    root.mkdir(exist_ok=True)
    (root / "classes.txt").write_text("road\ncar\n")
    for number, split in enumerate(splits):
        for i in range(2):
            save(root / "images" / split / f"{split}{i}.png", noise(10 * number + i))
            save(root / "masks" / split / f"{split}{i}.png", np.full(SIZE, i, np.uint8))
    return root


def test_a_missing_split_folder_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    root = make_split_folder(tmp_path)
    with pytest.raises(InputError, match=r"images holds train and val, but no test; choose another split"):
        FolderDataset(root, "test")


@pytest.mark.parametrize(
    ("make", "chosen", "is_said"),
    [
        (lambda root: make_split_folder(root), "val", True),
        (lambda root: make_split_folder(root, ("train", "val", "test")), "test", False),
        (lambda root: make_folder(root), "val", True),
        (lambda root: (make_folder(root) / "test.txt").write_text("01\n"), "test", False),
    ],
    ids=["folders without test", "folders with test", "no splits", "a list of test images"],
)
def test_a_folder_without_test_images_is_tested_on_its_validation_images(
    make: Callable[[Path], object], chosen: str, is_said: bool, tmp_path: Path
) -> None:
    make(tmp_path)
    data, note = choose_test_split(Data(dataset="folder", test_split="test", val_list="v.txt"), str(tmp_path))
    assert (data.test_split, data.test_list) == (chosen, "v.txt" if chosen == "val" else "")
    assert ("has no test split: its validation images (split val) are taken" in note) == is_said


def test_the_choice_of_the_test_split_leaves_what_was_asked_for(tmp_path: Path) -> None:
    root = str(make_split_folder(tmp_path))
    for asked in (Data(dataset="folder", test_list="mine.txt"), Data(dataset="camvid", test_split="test")):
        assert choose_test_split(asked, root) == (asked, "")
    on_validation = Data(dataset="folder", test_split="val", val_list="v.txt")
    assert choose_test_split(on_validation, root) == (replace(on_validation, test_list="v.txt"), "")
