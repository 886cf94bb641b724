"""Triton's interpreter: kernels run in Python, on the CPU, where there is no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_interpreted(file: str) -> str:
    """Run the fast tests of a file in the interpreter, in a process of its own; return what pytest says."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = ["-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", "-m", "not gpu and not slow", file]
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
