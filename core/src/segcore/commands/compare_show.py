"""`segcore compare show`: what a study, or runs made by hand, allow to say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from segcore.commands.parsing import parse_options
from segcore.files import make_folder
from segcore.recipe.ranges import NOT_NEGATIVE, Range, check_ranges

if TYPE_CHECKING:
    from segcore.compare.results import Results

_DESCRIPTION = """Compare the heads of a study, or of runs made by hand that were tested on the same images: ranking
with intervals of 95 % over images and seeds, paired differences with p-values corrected for their number, classes,
boundary IoU. Prints the tables and writes them as CSV, Markdown, JSON and one page."""
_RESAMPLES = Range("be at least 100", 100)


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """What to compare."""

    folders: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="STUDY | RUN RUN ...")]
    """Folder of a study, or work directories of tested runs; seeds of one recipe count as one head."""
    out: str = ""
    """Folder for what is written; empty is the study's, or `comparison` for runs."""
    resamples: Annotated[int, _RESAMPLES] = 10_000
    """Draws of the bootstrap."""
    images: Annotated[int, NOT_NEGATIVE] = 4
    """Pictures on the page of the hardest images, and as many on which the heads differ most; 0 needs no data set."""
    root: Annotated[str, tyro.conf.arg(aliases=["--run.data"])] = ""
    """Folder of the data set for the pictures; empty is that of the runs."""
    device: str = "auto"
    """Where the pictures are predicted: cpu, cuda, mps, xpu or auto."""

    def __post_init__(self) -> None:
        check_ranges(self)


def main(words: list[str]) -> int:
    """Run `segcore compare show`; returns the exit code.

    Raises:
        InputError: if there is nothing to compare, or the runs were not tested on the same images.
    """
    options = parse_options("segcore compare show", _DESCRIPTION, ShowOptions, words)
    from segcore.compare.collect import collect  # NumPy and more only here, so --help is instant
    from segcore.compare.results import analyze, write_files

    folders = [Path(folder) for folder in options.folders]
    out = Path(options.out or (folders[0] if len(folders) == 1 else "comparison"))
    make_folder(out, "--out")
    results = analyze(collect(folders), resamples=options.resamples)
    _print(results)
    written = write_files(results, out)
    from segcore.compare.atlas import atlas_images, chosen_images
    from segcore.compare.comparison_page import comparison_page
    from segcore.pages.render import write_page

    chosen = chosen_images(results.comparison, options.images)
    images = atlas_images(results.comparison, chosen, options.root, options.device) if options.images else []
    written.append(write_page(out / "comparison.html", comparison_page(results, images)))
    for path in written:
        print(f"wrote {path}")
    return 0


def _print(results: Results) -> None:
    from rich.table import Table

    from segcore.compare.results import difference_rows, interval_text, p_text, ranking_rows
    from segcore.console import PlainConsole

    console, first = PlainConsole(soft_wrap=True), results.comparison.first
    test = f"{first.score.data.dataset} {first.score.data.split}, {len(first.images)} images"
    ranking = Table(title=f"{test}, {first.score.protocol.words}; %, intervals of 95 %")
    ranking.add_column("head", no_wrap=True)
    for name in ("seeds", "mIoU", "boundary IoU", "ms"):
        ranking.add_column(name, justify="right", no_wrap=True)
    for row in ranking_rows(results):
        ranking.add_row(row[1], str(row[2]), interval_text(row[3:6]), _number(row[6], 2), _number(row[11], 1))
    console.print(ranking)
    pairs = Table("better", "worse", title="paired differences, points of percent; p corrected after Holm")
    for name in ("difference", "p"):
        pairs.add_column(name, justify="right", no_wrap=True)
    for better, worse, *values, p, is_significant in difference_rows(results.differences):
        pairs.add_row(better, worse, interval_text(values), p_text(p) + (" *" if is_significant else ""))
    if results.differences:
        console.print(pairs)
    console.print(results.verdict())
    for name, text in results.comparison.missing.items():
        console.print(f"missing: {name}: {text}")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
