"""The page of a checked data set says what the terminal says, and shows examples."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from segcore.commands.main import main
from tests.data.test_datasets import SIZE, noise, save
from tests.data.test_folder import make_folder


def test_the_page_holds_counts_findings_faults_and_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path / "mine", classes="road\n<b>car\nnever\n")
    save(root / "masks" / "05.png", np.zeros(SIZE, np.uint8))
    (root / "images" / "07.jpg").write_bytes(b"broken")
    page = tmp_path / "page" / "check.html"
    assert main(["data", "check", "folder", "--root", str(root), "--split", "train", "--page", str(page)]) == 2
    assert f"wrote {page}" in capsys.readouterr().out.replace("\n", "")
    text = page.read_text("utf-8")
    assert "1 x unreadable image" in text
    assert "07.jpg is not an image that OpenCV can decode" in text
    assert "classes that never occur: no mask has the classes never" in text
    titles = re.findall(r"<h3>(.*?)</h3>", text)
    assert "road: 100.0 % of 05" in titles
    assert sum(title.startswith("&lt;b&gt;car: 100.0 % of") for title in titles) == 3
    assert "<b>car" not in text


def test_one_picture_in_two_splits_comes_first(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "mine", classes="road\ncar\n")
    save(root / "images" / "01.png", noise(0))
    (root / "images" / "01.jpg").unlink()
    save(root / "images" / "00.png", noise(0))
    (root / "images" / "00.jpg").unlink()
    page = tmp_path / "check.html"
    assert main(["data", "check", "folder", "--root", str(root), "--page", str(page)]) == 0
    sections = re.findall(r"<h2>(.*?)</h2>", page.read_text("utf-8"))
    assert sections[0] == "Between splits"
    assert "train: findings" in sections
    assert "val: examples of each class" in sections


def test_generated_scenes_have_a_page_without_examples(tmp_path: Path) -> None:
    page = tmp_path / "check.html"
    assert main(["data", "check", "toy", "--split", "test", "--page", str(page)]) == 0
    assert "examples of each class" not in page.read_text("utf-8")
