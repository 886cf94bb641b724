"""What other systems lack, taken away here: Windows, a machine without a display's libraries."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.test_imports import modules

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
Result = subprocess.CompletedProcess[str]
NO_LIBGL = """
import sys
from importlib.abc import MetaPathFinder

class NoLibGL(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")

sys.meta_path.insert(0, NoLibGL())
"""


def _python(*words: str, folders: tuple[Path, ...] = (), cwd: Path | None = None, **variables: str) -> Result:
    """Run Python with folders before the others of PYTHONPATH."""
    path = os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    return subprocess.run([sys.executable, *words], env=environment, cwd=cwd, capture_output=True, text=True)


def test_a_run_needs_nothing_that_windows_lacks(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "street.png"), np.zeros((40, 48, 3), np.uint8))
    result = _python(
        *("-m", "tests.platforms.windows_run", "street.png"),
        folders=(HERE / "windows", ROOT),
        cwd=tmp_path,
        PYTHONWARNDEFAULTENCODING="1",  # reading or writing text without an encoding is an error
        PYTHONIOENCODING="cp1252",
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "memory unknown" in (tmp_path / "run" / "log.txt").read_text("utf-8")
    assert (tmp_path / "masks" / "street.png").is_file()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import segcore.predictor", "segcore.errors.InputError: OpenCV cannot be loaded (libGL.so.1"),
        (
            "from tests.tiny_paper import PAPER; from segcore.commands.train import train_command; "
            "raise SystemExit(train_command(PAPER)(['toy']))",
            "tiny-train: OpenCV cannot be loaded (libGL.so.1",
        ),
    ],
    ids=["in Python", "in a command"],
)
def test_opencv_without_its_libraries_says_what_to_install(tmp_path: Path, code: str, said: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_LIBGL, "utf-8")
    result = _python("-c", code, folders=(tmp_path, ROOT), cwd=tmp_path)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(said), result.stderr[-3000:]
    assert "`pip install opencv-python-headless`" in last
    assert result.returncode == (1 if "Error" in said else 2)


def test_opencv_comes_from_one_place() -> None:
    direct = [name for name, path in modules().items() if re.search(r"(?m)^ *import cv2", path.read_text("utf-8"))]
    assert direct == ["segcore.opencv"]


def test_tensorboard_is_loaded_by_a_run_only() -> None:
    result = _python("-c", "import sys, segcore.training.loop; print('tensorboard' in sys.modules)")
    assert result.stdout.split() == ["False"], result.stderr
