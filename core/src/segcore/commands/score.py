"""`segcore score`: score a folder of predicted label maps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from segcore.commands.datasets import DatasetOptions
from segcore.commands.parsing import parse_options
from segcore.commands.scores import check_metrics, print_scores
from segcore.data import DATASETS, create_dataset
from segcore.errors import InputError
from segcore.evaluation import CITYSCAPES, METRICS

_DESCRIPTION = f"""Score predicted label maps (STEM.png, 8 bit) in DIR and the folders below against the labels of a
data set: the files of `<paper>-test --out`, or of any other tool. Predictions made in parts need only lie below one
folder. Every image of the split (or of --list) must have a prediction. Data sets: {", ".join(DATASETS)}. Scores:
{", ".join(METRICS)}; {CITYSCAPES}: class and category averages of its own tools."""


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(DatasetOptions):
    """What to score."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """Folder of the predictions."""
    dataset: str
    """Name of the data set."""
    split: str = "val"
    """Split to score."""
    eval: tuple[str, ...] = ("mIoU",)
    """Scores to print."""
    encoding: Literal["train-ids", "submission"] = "train-ids"
    """Values of the files: class numbers, or those of the data set's test server."""


def main(words: list[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        InputError: for impossible options, and files that are missing or cannot be used.
    """
    options = parse_options("segcore score", _DESCRIPTION, ScoreOptions, words)
    check_metrics(options.eval, options.dataset)
    from segcore.data.base import FileDataset

    dataset = create_dataset(options.data(options.dataset), options.root, options.split, list_file=options.list)
    if not isinstance(dataset, FileDataset):
        raise InputError(f"{dataset.name} is generated, so no files can be matched with it; choose a data set of files")
    from rich.progress import Progress  # with torch, only where something is scored

    from segcore.console import PlainConsole
    from segcore.evaluation.label_folder import count_predictions

    with Progress(console=PlainConsole(stderr=True), transient=True) as progress:
        task = progress.add_task("scoring", total=len(dataset))
        matrix = count_predictions(
            options.folder,
            dataset,
            encoding=options.encoding,
            workers=options.threads(),
            progress=lambda number: progress.advance(task, number),
        )
    head = f"{len(dataset)} images of {dataset.name} {options.split}"
    print_scores(PlainConsole(soft_wrap=True), matrix.scores(), dataset.classes, options.eval, head)
    return 0
