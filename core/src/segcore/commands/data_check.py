"""`segcore data check`: count images and classes, find unusable files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from segcore.commands.datasets import DatasetOptions
from segcore.commands.parsing import parse_options
from segcore.data import DATASETS, create_dataset
from segcore.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from segcore.data.base import SegmentationDataset
    from segcore.data.check import CheckReport
    from segcore.data.traps import Suspicion

_DESCRIPTION = f"""Count images and classes, find unusable files and what is probably not meant (masks of 0 and 255,
masks that count from 1, lossy masks, unclear rotations, classes that never occur, one picture in two splits): reads
every file, exit code 2 if one cannot be used. Data sets: {", ".join(DATASETS)}."""
_SPLITS = ("train", "val")
_BAR = 16  # characters of the longest bar


@dataclass(frozen=True, kw_only=True)
class CheckOptions(DatasetOptions):
    """What to check."""

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """Name of a data set."""
    split: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Split to check, may be given several times; without it, train and val."""
    page: str = ""
    """Also write this HTML page: class histogram, examples of each class, files that cannot be used."""


def main(words: list[str]) -> int:
    """Run `segcore data check`; returns 2 if files of the data set cannot be used.

    Raises:
        InputError: if the data set is unknown or not where the options say.
    """
    options = parse_options("segcore data check", _DESCRIPTION, CheckOptions, words)
    from segcore.console import PlainConsole  # with the data sets' torch, only where something is read
    from segcore.data.traps import shared_pictures

    console = PlainConsole(soft_wrap=True)
    checked: list[tuple[str, CheckReport, SegmentationDataset]] = []
    for split in dict.fromkeys(options.split or _SPLITS):
        dataset = _open(options, split)
        report = _check(dataset, split, options.threads())
        checked.append((split, report, dataset))
        console.print(_table(report, f"{options.dataset}, split {split}"))
        for line in _lines(report):
            console.print(line)
    shared = shared_pictures({split: report.pictures for split, report, _ in checked})
    for suspicion in shared:
        console.print(_sentence(suspicion))
    if options.page:
        from segcore.pages.render import write_page  # plotly loads only for a page
        from segcore.report.check_page import CheckedSplit, check_page

        page = check_page([CheckedSplit(*one) for one in checked], shared, options.root)
        console.print(f"wrote {write_page(options.page, page)}")
    return 0 if all(report.is_clean for _, report, _ in checked) else 2


def _open(options: CheckOptions, split: str) -> SegmentationDataset:
    """Return one split, its files unread."""
    data = options.data(options.dataset)
    dataset = create_dataset(data, options.root, split, list_file=options.list, check_files=False)
    if len(dataset) == 0:
        raise InputError(f"{data.dataset}, split {split}: no images found in {options.root}")
    return dataset


def _check(dataset: SegmentationDataset, split: str, threads: int) -> CheckReport:
    """Read one split."""
    from rich.progress import Progress

    from segcore.console import PlainConsole
    from segcore.data.check import check_dataset

    with Progress(console=PlainConsole(stderr=True), transient=True) as progress:
        task = progress.add_task(f"reading {split}", total=len(dataset))
        return check_dataset(dataset, workers=threads, progress=lambda: progress.advance(task))


def _table(report: CheckReport, title: str) -> Table:
    """Return the table of classes."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in ("class", "name"):
        table.add_column(heading)
    for heading in ("images", "pixels", "percent"):
        table.add_column(heading, justify="right")
    table.add_column("histogram")
    percent = report.percent()
    for i, (name, share) in enumerate(zip(report.classes, percent, strict=True)):
        bar = "█" * round(_BAR * share / max(percent.max(), 1e-9))
        table.add_row(str(i), name, f"{report.images_with[i]}", f"{report.pixels[i]}", f"{share:.3f}", bar)
    total = max(int(report.pixels.sum()) + report.ignored, 1)
    table.add_section()
    table.add_row("255", "ignored", "", f"{report.ignored}", f"({100 * report.ignored / total:.3f} of all)")
    return table


def _lines(report: CheckReport) -> Iterator[str]:
    """Yield the counts, the faults and what is suspicious."""
    sizes = " to ".join(f"{width}x{height}" for height, width in (report.smallest, report.largest))
    yield f"{report.images} images ({sizes}, width x height), {report.labels} usable labels"
    for kind, faults in report.faults.items():
        yield f"{faults.count} x {kind}:"
        yield from (f"  {message}" for message in faults.messages)
        if faults.count > len(faults.messages):
            yield f"  and {faults.count - len(faults.messages)} more"
    yield from map(_sentence, report.suspicions)
    if report.is_clean and not report.suspicions:
        yield "no faults"


def _sentence(suspicion: Suspicion) -> str:
    first = f" (first: {suspicion.names[0]})" if suspicion.names else ""
    return f"suspicious, {suspicion.kind}: {suspicion.message}{first}"
