"""The notebook of docs runs from its first cell to its last, in a folder of its own, and its heads have learned."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "first_steps.ipynb"


@pytest.mark.slow  # trains two heads
def test_the_notebook_runs_as_it_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat  # not where tests run on a machine without an index
    from nbclient import NotebookClient

    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    texts = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())]
    scores = [float(found) for text in texts for found in re.findall(r"mIoU ([\d.]+)$", text, re.MULTILINE)]
    assert len(scores) == 2
    assert min(scores) > 20, scores  # chance is 4
    (equal,) = (found for text in texts for found in re.findall(r"equal to the network on ([\d.]+) %", text))
    assert float(equal) > 99.9
