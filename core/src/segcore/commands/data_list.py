"""`segcore data list`: names of the data sets."""

from __future__ import annotations

from dataclasses import dataclass

from segcore.commands.parsing import parse_options
from segcore.data import DATASETS


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """Nothing to choose."""


def main(words: list[str]) -> int:
    """Run the command; returns the exit code."""
    parse_options(
        "segcore data list", "Print the names of the data sets, with their classes and images.", ListOptions, words
    )
    width = max(map(len, DATASETS))
    for name, entry in DATASETS.items():
        print(f"{name.ljust(width)}  {entry.about}")
    return 0
