"""FolderDataset: the user's own images and masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from segcore.data import create_dataset
from segcore.data.folder import FolderDataset, make_palette, read_classes
from segcore.data.read import DataFileError
from segcore.errors import InputError
from segcore.recipe import Data
from tests.data.test_datasets import SIZE, noise, save


def make_folder(root: Path, num_images: int = 12, value: int = 1, classes: str = "road\ncar\n") -> Path:
    root.mkdir(exist_ok=True)
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
    ],
)
def test_a_wrong_class_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "classes.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"classes\.json"):
        read_classes(path)


def test_generated_palettes_hold_different_colors() -> None:
    assert len(np.unique(make_palette(254), axis=0)) == 254
