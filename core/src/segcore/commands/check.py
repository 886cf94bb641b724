"""`segcore check`: whether weights and training states are what was written."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from segcore.commands.parsing import parse_options
from segcore.errors import InputError, check

_DESCRIPTION = """Compare weights (.safetensors) and training states (state-*.pt) with the checksum that they carry, and
read whole whatever carries none, such as published checkpoints. Exit code 2 where a file is damaged."""


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """What to check."""

    files: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FILE...")]
    """Weights and training states."""

    def __post_init__(self) -> None:
        check(bool(self.files), "give at least one file to check")


def main(words: list[str]) -> int:
    """Run the command; returns the exit code."""
    options = parse_options("segcore check", _DESCRIPTION, CheckOptions, words)
    damaged = 0
    for path in options.files:
        try:
            print(f"{path}: {_state_of(path)}")
        except InputError as error:
            damaged += 1
            print(f"segcore check: {error}", file=sys.stderr)
    return 2 if damaged else 0


def _state_of(path: Path) -> str:
    """Return what is known of a file that can be read.

    Raises:
        InputError: if it is damaged or cannot be read.
    """
    from segcore.weights.checksums import compare  # torch loads only where a file carries no checksum

    seal = compare(path)
    if seal:
        return f"whole, {seal}"
    from segcore.weights.files import read_checkpoint
    from segcore.weights.torch_files import read_torch_file

    if path.suffix == ".safetensors":
        read_checkpoint(path)
    else:
        read_torch_file(path)
    return "readable; it carries no checksum, so a changed value would not be noticed"
