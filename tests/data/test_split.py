"""`segcore data split`: parts of a folder that hold their share of every class and keep groups together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segcore.commands.main import main
from segcore.data.folder import FolderDataset
from segcore.data.split import divide, group_names
from segcore.errors import InputError
from tests.data.test_datasets import SIZE, noise, save
from tests.data.test_folder import make_folder, make_split_folder

SHARES = (0.7, 0.15, 0.15)


def make_scenes(root: Path) -> Path:
    """Write 40 images of 8 scenes; the class "rare" is in every fifth image."""
    root.mkdir(exist_ok=True)
    (root / "classes.txt").write_text("common\nrare\n")
    for i in range(40):
        label = np.zeros(SIZE, np.uint8)
        label[0, 0] = i % 5 == 0
        save(root / "images" / f"scene{i // 5}" / f"s{i // 5}_{i:02d}.png", noise(i))
        save(root / "masks" / f"scene{i // 5}" / f"s{i // 5}_{i:02d}.png", label)
    return root


def lists(folder: Path) -> dict[str, list[str]]:
    return {name: (folder / f"{name}.txt").read_text().split() for name in ("train", "val", "test")}


def test_every_class_has_its_share_in_every_part() -> None:
    generator = np.random.default_rng(0)
    frequency = np.array([1.0, 0.5, 0.2, 0.05])
    presence = generator.random((400, 4)) < frequency
    part_of = divide(presence, [str(i) for i in range(400)], SHARES, seed=0)
    for part, share in enumerate(SHARES):
        assert abs((part_of == part).sum() - 400 * share) <= 2
        found = presence[part_of == part].sum(axis=0)
        assert np.abs(found - share * presence.sum(axis=0)).max() <= 2


def test_a_division_depends_on_its_seed_alone() -> None:
    presence = np.random.default_rng(1).random((60, 3)) < 0.5
    groups = [str(i) for i in range(60)]
    first, again, other = (divide(presence, groups, SHARES, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_groups_stay_together_and_parts_near_their_share() -> None:
    generator = np.random.default_rng(2)
    groups = [f"g{generator.integers(30)}" for _ in range(600)]
    presence = generator.random((600, 4)) < [1.0, 0.6, 0.3, 0.1]
    part_of = divide(presence, groups, SHARES, seed=0)
    for group in set(groups):
        assert len({int(part) for part, name in zip(part_of, groups, strict=True) if name == group}) == 1
    for part, share in enumerate(SHARES):
        assert abs((part_of == part).mean() - share) < 0.05


def test_images_without_any_class_are_divided_too() -> None:
    part_of = divide(np.zeros((20, 2), bool), [str(i) for i in range(20)], (0.5, 0.5), seed=0)
    assert np.bincount(part_of).tolist() == [10, 10]


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(InputError, match="2 groups of images are too few for 3 parts"):
        divide(np.ones((50, 1), bool), ["a"] * 25 + ["b"] * 25, SHARES, seed=0)


@pytest.mark.parametrize(
    ("rule", "groups"),
    [
        ("", ["a/x_1", "a/x_2", "b/x_1"]),
        ("folder", ["a", "a", "b"]),
        (r"\w+_\d", ["x_1", "x_2", "x_1"]),
        (r"_(\d)", ["1", "2", "1"]),
        (r"(\w)/\w_(\d)", ["a\0" + "1", "a\0" + "2", "b\0" + "1"]),
    ],
)
def test_groups_are_folders_or_what_an_expression_finds(rule: str, groups: list[str]) -> None:
    assert group_names(["a/x_1", "a/x_2", "b/x_1"], rule) == groups


def test_the_lists_are_the_splits_that_training_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_scenes(tmp_path / "own")
    assert main(["data", "split", "--root", str(root), "--val", "0.25", "--test", "0.25", "--group", "folder"]) == 0
    parts = lists(root)
    assert sorted(name for part in parts.values() for name in part) == [
        item.name for item in FolderDataset(root, "all").items
    ]
    scenes = [{name.split("/")[0] for name in part} for part in parts.values()]
    assert [len(scene) for scene in scenes] == [4, 2, 2]
    assert not scenes[0] & scenes[1] | scenes[0] & scenes[2] | scenes[1] & scenes[2]
    for split, part in parts.items():
        assert [item.name for item in FolderDataset(root, split).items] == part
    printed = capsys.readouterr().out
    assert "rare" in printed
    assert f"<paper>-train own --run.data {root}\n" in printed


def test_lists_may_go_elsewhere_and_are_read_from_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = make_scenes(tmp_path / "own"), tmp_path / "lists"
    assert main(["data", "split", "--root", str(root), "--test", "0", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["train.txt", "val.txt"]
    assert f"--data.train-list {out / 'train.txt'} --data.val-list {out / 'val.txt'}\n" in capsys.readouterr().out
    rare = FolderDataset(root, "val", list_file=str(out / "val.txt"))
    assert len(rare) == 6
    assert sum((rare.load_label(i) == 1).any() for i in range(6)) == 1


def test_lists_that_exist_are_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_scenes(tmp_path)
    (root / "val.txt").write_text("mine")
    assert main(["data", "split", "--root", str(root)]) == 2
    assert "val.txt exists; move it away, or give another --out" in capsys.readouterr().err
    assert (root / "val.txt").read_text() == "mine"
    assert not (root / "train.txt").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--val", "0.6", "--test", "0.5"], "--val 0.6 and --test 0.5 leave no images to train on"),
        (["--val", "0"], "--val must be positive"),
        (["--val", "1"], r"--val must be in \[0, 1\)"),
        (["--group", "("], "--group ( is no regular expression"),
        (["--group", "x(.)"], "--group x(.) does not match the image 00"),
    ],
)
def test_impossible_options_are_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "split", "--root", str(make_folder(tmp_path)), *words]) == 2
    assert message.replace("\\", "") in capsys.readouterr().err


def test_a_folder_that_is_split_already_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "split", "--root", str(make_split_folder(tmp_path))]) == 2
    assert "is split by its folders train and val already" in capsys.readouterr().err
