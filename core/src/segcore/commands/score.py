"""`segcore score`: score a folder of predicted label maps."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from segcore.data import DATASETS, create_dataset
from segcore.data.prepare.runner import available_cores
from segcore.errors import InputError
from segcore.recipe import Data

_METRICS = ("mIoU", "mDice", "mFscore")
_CITYSCAPES = "cityscapes"

_DESCRIPTION = """Score predicted label maps (STEM.png, 8 bit) in DIR and the folders below against the labels of a data
set: the files of `<paper>-test --out`, or of any other tool. Predictions made in parts need only lie below one folder.
Every image of the split (or of --list) must have a prediction."""


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="segcore score", description=_DESCRIPTION)
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of the predictions")
    parser.add_argument("--dataset", required=True, metavar="NAME", help=", ".join(DATASETS))
    parser.add_argument("--root", "--run.data", default="", metavar="DIR", help="folder of the data set")
    parser.add_argument("--split", default="val", metavar="NAME", help="split to score (default: val)")
    parser.add_argument("--list", default="", metavar="FILE", help="score the images of this list of stems only")
    scores = f"{', '.join(_METRICS)}; cityscapes: class and category averages of its own tools (default: mIoU)"
    parser.add_argument("--eval", nargs="+", default=["mIoU"], metavar="SCORE", help=scores)
    encoding = "values of the files: class numbers (train-ids, the default), or those of the test server (submission)"
    parser.add_argument("--encoding", choices=("train-ids", "submission"), default="train-ids", help=encoding)
    parser.add_argument("--classes", default="", metavar="FILE", help="folder: class names (default: ROOT/classes.*)")
    parser.add_argument("--ignore", type=int, default=255, metavar="VALUE", help="folder: mask value without a label")
    workers = min(available_cores(), 8)
    parser.add_argument("--workers", type=int, default=workers, metavar="N", help=f"threads (default: {workers})")
    return parser.parse_args(list(argv))


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        InputError: for impossible options, and files that are missing or cannot be used.
    """
    options = _parse(argv)
    unknown = [name for name in options.eval if name not in (*_METRICS, _CITYSCAPES)]
    if unknown:
        raise InputError(f"--eval {' '.join(unknown)} is unknown; choose from {', '.join((*_METRICS, _CITYSCAPES))}")
    if _CITYSCAPES in options.eval and options.dataset != _CITYSCAPES:
        raise InputError(f"--eval cityscapes needs --dataset cityscapes, got {options.dataset}")
    data = Data(dataset=options.dataset, classes=options.classes, ignore=options.ignore)
    _score(options, data)
    return 0


def _score(options: argparse.Namespace, data: Data) -> None:
    from rich.console import Console  # with torch, only where something is scored
    from rich.progress import Progress

    from segcore.data.base import FileDataset
    from segcore.evaluation.label_folder import cityscapes_summary, score_folder
    from segcore.images.visualize import score_table

    dataset = create_dataset(data, options.root, options.split, list_file=options.list)
    if not isinstance(dataset, FileDataset):
        raise InputError(f"{data.dataset} is generated, so no files can be matched with it; choose a data set of files")
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("scoring", total=len(dataset))
        matrix = score_folder(
            options.folder,
            dataset,
            encoding=options.encoding,
            workers=options.workers,
            progress=lambda number: progress.advance(task, number),
        )
    console = Console(soft_wrap=True, highlight=False)
    metrics = [name for name in options.eval if name in _METRICS] or ["mIoU"]
    scores = matrix.scores()
    console.print(score_table(scores, dataset.classes, metrics))
    if _CITYSCAPES in options.eval:
        for name, value in cityscapes_summary(scores).items():
            console.print(f"{name} {value:.4f}")
    console.print(f"{len(dataset)} images of {dataset.name} {options.split}")
    summary = scores.summary(metrics)
    for name in metrics:
        console.print(f"{name} {100 * summary[name]:.2f}")
