"""`segcore data`: list the data sets, prepare one, check one."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from segcore.commands import prepare as prepare_command
from segcore.data import DATASETS, create_dataset
from segcore.errors import InputError
from segcore.recipe import Data

_CHECKED_SPLITS = ("train", "val")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segcore data", description="List, prepare and check the data sets.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="names of the data sets")
    prepare_command.add_parser(commands)
    check = commands.add_parser(
        "check",
        help="count images and classes, find unusable files",
        description="Reads every file. Exit code 2 if one cannot be used.",
    )
    check.add_argument("dataset", metavar="DATASET", help=", ".join(DATASETS))
    check.add_argument("--root", "--run.data", default="", metavar="DIR", help="folder of the data set")
    check.add_argument(
        "--split",
        action="append",
        default=[],
        metavar="NAME",
        help=f"split to check, may be given several times (default: {' and '.join(_CHECKED_SPLITS)})",
    )
    check.add_argument("--list", default="", metavar="FILE", help="check the images of this list of stems only")
    check.add_argument("--classes", default="", metavar="FILE", help="folder: class names (default: DIR/classes.*)")
    check.add_argument("--ignore", type=int, default=255, metavar="VALUE", help="folder: mask value without a label")
    workers = min(os.cpu_count() or 1, 8)
    check.add_argument("--workers", type=int, default=workers, metavar="N", help=f"threads (default: {workers})")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run `segcore data ...`; returns 2 if files of the data set cannot be used.

    Raises:
        InputError: if the data set is unknown or not where the options say.
    """
    options = _parser().parse_args(list(argv))
    if options.command == "list":
        width = max(map(len, DATASETS))
        for name, entry in DATASETS.items():
            print(f"{name.ljust(width)}  {entry.about}")
        return 0
    if options.command == "prepare":
        return prepare_command.run(options)
    data = Data(dataset=options.dataset, classes=options.classes, ignore=options.ignore)
    splits = options.split or list(_CHECKED_SPLITS)
    return max(_check(data, options.root, split, options.list, options.workers) for split in splits)


def _check(data: Data, root: str, split: str, list_file: str, workers: int) -> int:
    """Check one split and print what was found; returns the exit code."""
    from rich.console import Console  # with the data sets' torch, only where something is read
    from rich.progress import Progress

    from segcore.data.check import check_dataset, render

    dataset = create_dataset(data, root, split, list_file=list_file, check_files=False)
    if len(dataset) == 0:
        raise InputError(f"{data.dataset}, split {split}: no images found in {root}")
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"reading {split}", total=len(dataset))
        report = check_dataset(dataset, workers=workers, progress=lambda: progress.advance(task))
    console = Console(soft_wrap=True)
    console.print(render(report, f"{data.dataset}, split {split}"))
    return 0 if report.is_clean else 2
