"""docs/add_a_paper.md, followed to the letter: its package is written, found by core, and passes the contract tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_how_to import blocks

ROOT = Path(__file__).parents[1]
PAGE = "add_a_paper.md"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with the page's package as an installer lays it: sources, and the metadata with the entry point."""
    recipes, model, names, train = blocks(PAGE, "python")
    (entries,) = blocks(PAGE, "toml")
    package = tmp_path / "segformer"
    package.mkdir()
    (package / "__init__.py").write_text("")
    sources = {"recipes": recipes, "model": model, "names": names, "train": train}
    sources |= {name: train.replace("train", name) for name in ("test", "predict")}
    for name, code in sources.items():
        (package / f"{name}.py").write_text(code)
    metadata = tmp_path / "segformer-0.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: segformer\nVersion: 0.0\n")
    points = re.sub(r"\[project\.scripts\]", "[console_scripts]", entries)
    points = re.sub(r'\[project\.entry-points\."(.*)"\]', r"[\1]", points).replace('"', "")
    (metadata / "entry_points.txt").write_text(points)
    return tmp_path


def test_the_paper_of_the_page_is_short() -> None:
    lines = [line for code in blocks(PAGE, "python")[:3] for line in code.splitlines() if line.strip()]
    assert len(lines) < 60


def test_the_paper_of_the_page_passes_the_contract_tests(site: Path) -> None:
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH", ""))))
    words = ["-m", "pytest", "tests/contract", "-k", "segformer", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-5000:]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None
    assert int(passed[1]) >= 10
