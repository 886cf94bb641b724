"""`segcore data check`: count images and classes, find unusable files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from segcore.commands.datasets import DatasetOptions
from segcore.commands.parsing import parse_options
from segcore.data import DATASETS, create_dataset
from segcore.errors import InputError

_DESCRIPTION = f"""Count images and classes, find unusable files: reads every file, exit code 2 if one cannot be used.
Data sets: {", ".join(DATASETS)}."""
_SPLITS = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class CheckOptions(DatasetOptions):
    """What to check."""

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """Name of a data set."""
    split: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Split to check, may be given several times; without it, train and val."""


def main(words: list[str]) -> int:
    """Run `segcore data check`; returns 2 if files of the data set cannot be used.

    Raises:
        InputError: if the data set is unknown or not where the options say.
    """
    options = parse_options("segcore data check", _DESCRIPTION, CheckOptions, words)
    return max(_check(options, split) for split in options.split or _SPLITS)


def _check(options: CheckOptions, split: str) -> int:
    """Check one split and print what was found; returns the exit code."""
    from rich.console import Console  # with the data sets' torch, only where something is read
    from rich.progress import Progress

    from segcore.data.check import check_dataset, render

    data = options.data(options.dataset)
    dataset = create_dataset(data, options.root, split, list_file=options.list, check_files=False)
    if len(dataset) == 0:
        raise InputError(f"{data.dataset}, split {split}: no images found in {options.root}")
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"reading {split}", total=len(dataset))
        report = check_dataset(dataset, workers=options.threads(), progress=lambda: progress.advance(task))
    console = Console(soft_wrap=True)
    console.print(render(report, f"{data.dataset}, split {split}"))
    return 0 if report.is_clean else 2
