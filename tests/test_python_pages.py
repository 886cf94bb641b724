"""The Python of README.md and docs/python.md runs as it is printed, and `import segcore` costs nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest

import segcore
import segcore.segmentor
from segcore.data.toy.dataset import ToyScenes

ROOT = Path(__file__).parents[1]
SECONDS = 0.2


def blocks(page: str) -> list[str]:
    """Return the Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what the pages speak of: an image, and a run of `cgrseg-train toy`."""
    cv2.imwrite(str(tmp_path / "street.jpg"), ToyScenes("test", 1, (96, 128))[0].image)
    run = segcore.create_model("cgrseg-toy").save_pretrained(tmp_path / "work_dirs" / "cgrseg-toy")
    (run / "model.safetensors").rename(run / "best.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_the_first_screen_of_the_readme_runs() -> None:
    names: dict[str, Any] = {}
    exec(blocks("README.md")[0], names)
    assert names["logits"].shape == (1, 19, 256, 512)
    assert names["label"].shape == (96, 128)


def test_the_loop_of_ones_own_learns_and_is_short(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (loop,) = (block for block in blocks("README.md") if "for iteration" in block)
    assert len(loop.splitlines()) <= 25
    exec(loop, {})
    losses = [sum(map(float, re.findall(r": ([\d.]+)", line))) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 20
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4]), losses
    predictor = segcore.Predictor.from_pretrained(folder / "mine")
    assert predictor.classes.names[0] == "sky"
    assert bool(predictor.model.head.memory.rows.any())  # pyright: ignore - it was fed


def test_the_page_about_python_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded: list[tuple[str, bool]] = []

    def upload(repository: str, write: Any, *, private: bool) -> str:  # tests/hub has a server for it
        uploaded.append((repository, private))
        write(folder / "uploaded")
        return repository

    monkeypatch.setattr(segcore.segmentor, "upload", upload)
    names: dict[str, Any] = {}
    for block in blocks("docs/python.md"):
        exec(block, names)
    assert uploaded == [("user/name", True)]
    assert "license: cc-by-4.0" in (folder / "uploaded" / "README.md").read_text("utf-8")
    assert names["logits"].shape == (2, 8, 100, 130)


def test_importing_segcore_takes_no_time_and_no_torch() -> None:
    code = "import time, sys; t = time.process_time(); import segcore; print(time.process_time() - t, *sys.modules)"
    seconds, *modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    assert float(seconds) < SECONDS  # processor time: other programs on the machine do not count
    assert not {"torch", "numpy", "tyro"} & set(modules)


def test_names_of_segcore_are_all_there() -> None:
    assert all(getattr(segcore, name) for name in segcore.__all__)
    assert set(segcore.__all__) <= set(dir(segcore))
    with pytest.raises(AttributeError, match="module 'segcore' has no attribute 'create_modle'"):
        segcore.create_modle  # noqa: B018 # pyright: ignore
