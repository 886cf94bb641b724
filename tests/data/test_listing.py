"""Listing of data folders: links, names, lists of stems."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from segcore.commands.main import main
from segcore.data.folder import FolderDataset
from segcore.data.listing import find_files
from segcore.data.read import DataFileError, read_image, read_label
from segcore.errors import InputError
from tests.data.test_datasets import SIZE, noise, save
from tests.data.test_folder import make_folder


def three(folder: Path) -> Path:
    for name in ("a.png", "deep/b.png", "deep/er/c.png"):
        save(folder / name, noise())
    return folder


THREE = ["a.png", "deep/b.png", "deep/er/c.png"]


def test_a_loop_of_links_lists_every_image_once(tmp_path: Path) -> None:
    root = three(tmp_path / "images")
    (root / "deep" / "er" / "loop").symlink_to(root, target_is_directory=True)
    assert find_files(root, [".png"]) == THREE


@pytest.mark.timeout(20)
def test_two_loops_of_links_end(tmp_path: Path) -> None:
    root = three(tmp_path / "images")
    for name in ("deep/loop", "deep/er/loop", "again"):
        (root / name).symlink_to(root, target_is_directory=True)
    assert find_files(root, [".png"]) == THREE


def test_of_a_folder_and_a_link_to_it_the_own_path_is_listed(tmp_path: Path) -> None:
    root = three(tmp_path / "images")
    (root / "away").symlink_to(root / "deep", target_is_directory=True)  # comes before "deep"
    assert find_files(root, [".png"]) == THREE


def test_links_out_of_the_folder_are_followed(tmp_path: Path) -> None:
    three(tmp_path / "disk")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "here").symlink_to(tmp_path / "disk", target_is_directory=True)
    (tmp_path / "images" / "one.PNG").symlink_to(tmp_path / "disk" / "a.png")
    (tmp_path / "images" / "self.png").symlink_to(tmp_path / "images" / "self.png")
    assert find_files(tmp_path / "images", [".png"]) == [f"here/{name}" for name in THREE] + ["one.PNG", "self.png"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("read", [read_image, read_label])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to itself"])
def test_what_is_no_regular_file_is_refused_without_waiting(kind: str, read, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    with pytest.raises(DataFileError, match=r"x\.png"):
        read(path)


@pytest.mark.timeout(60)
def test_checking_a_folder_names_a_pipe_and_a_device_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path)
    os.mkfifo(root / "images" / "pipe.jpg")
    save(root / "masks" / "pipe.png", np.ones(SIZE, np.uint8))
    (root / "masks" / "01.png").unlink()
    (root / "masks" / "01.png").symlink_to("/dev/zero")
    assert main(["data", "check", "folder", "--root", str(root), "--split", "train"]) == 2
    printed = capsys.readouterr().out
    assert "01.png (it is no regular file, but a folder, a pipe or a device)" in printed
    assert "pipe.jpg: it is no regular file, but a folder, a pipe or a device" in printed


def test_a_class_file_that_is_a_device_is_refused(tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    (root / "classes.txt").unlink()
    (root / "names.txt").symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"names\.txt: it is no regular file"):
        FolderDataset(root, "train", classes=str(root / "names.txt"))


def test_an_image_name_that_is_not_utf8_is_refused_when_the_folder_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder(tmp_path)
    name = os.fsdecode(b"caf\xe9")
    for folder, suffix, array in (("images", ".jpg", noise()), ("masks", ".png", np.zeros(SIZE, np.uint8))):
        save(root / folder / f"plain{suffix}", array).rename(root / folder / f"{name}{suffix}")
    assert main(["data", "check", "folder", "--root", str(root)]) == 2
    printed = capsys.readouterr().err
    assert "caf\\udce9.jpg is not UTF-8; rename it" in printed


def test_names_in_any_language_are_listed(tmp_path: Path) -> None:
    save(tmp_path / "straße" / "街道.png", noise())
    assert find_files(tmp_path, [".png"]) == ["straße/街道.png"]


def test_a_list_files_stem_that_fits_two_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("a\nb\n")
    for name in ("north/x", "south/x", "south/y", "y"):
        save(tmp_path / "images" / f"{name}.jpg", noise())
        save(tmp_path / "masks" / f"{name}.png", np.ones(SIZE, np.uint8))
    listing = tmp_path / "list.txt"
    listing.write_text("south/x\nx\n")
    with pytest.raises(InputError, match=r"list\.txt, line 2: 'x' fits both north/x and south/x; write more of the"):
        FolderDataset(tmp_path, "all", list_file=str(listing))
    listing.write_text("north/x.jpg\ny\n")
    assert [item.name for item in FolderDataset(tmp_path, "all", list_file=str(listing)).items] == ["north/x", "y"]
