"""`segcore report`: the page of a work directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from segcore.commands.parsing import parse_options
from segcore.recipe.file import FILE_NAME, read_recipe_file
from segcore.recipe.ranges import NOT_NEGATIVE, check_ranges

_DESCRIPTION = """Write one self-contained HTML page about a training run: curves, scores, gallery, recipe. Scores are
those of tests of the page's weights (the best ones) on the split, under the run's protocol and its multi-scale + flip
form; without one, those of the last validation."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What to report."""

    work_dir: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="WORK_DIR")]
    """Folder of a run of <paper>-train."""
    out: str = ""
    """Page to write; empty is WORK_DIR/report.html."""
    gallery: Annotated[int, NOT_NEGATIVE] = 6
    """Pictures, spread over the test images."""
    keep_gallery: bool = False
    """Show the pictures of WORK_DIR/gallery as they are."""
    data: Annotated[str, tyro.conf.arg(aliases=["--run.data"])] = ""
    """Folder of the data set; empty is the run's."""
    split: str = ""
    """Split whose scores and pictures are shown; empty is the run's test split."""
    device: str = "auto"
    """cpu, cuda, mps, xpu or auto, as --run.device."""

    def __post_init__(self) -> None:
        check_ranges(self)


def main(words: list[str]) -> int:
    """Run `segcore report WORK_DIR`.

    Raises:
        InputError: if the folder holds no run with weights, or its data set cannot be read.
    """
    options = parse_options("segcore report", _DESCRIPTION, ReportOptions, words)
    read_recipe_file(Path(options.work_dir, FILE_NAME))  # tells at once where there is no run
    from segcore.report.build import report_run  # torch loads only here, so --help is instant

    count = None if options.keep_gallery else options.gallery
    out = options.out or str(Path(options.work_dir, "report.html"))
    page = report_run(
        options.work_dir, out, gallery=count, data_root=options.data, split=options.split, device=options.device
    )
    print(f"wrote {page}")
    return 0
