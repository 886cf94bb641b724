"""Training and testing never wait for a GPU within a step."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import pytest

from segcore.paper import Paper
from tests.contract.waits import ROOT


@cache
def waits() -> dict[str, str]:
    """Return where each step of each paper waits."""
    program = [sys.executable, "-m", "tests.contract.waits"]
    run = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_a_look_at_a_value_is_found() -> None:
    assert waits()["control"].startswith("DataDependentOutputException")
    assert "waits.py" in waits()["control"]


@pytest.mark.parametrize("step", ["training", "test"])
def test_no_step_looks_at_a_value(paper: Paper, step: str) -> None:
    assert waits()[f"{paper.name} {step}"] == ""
