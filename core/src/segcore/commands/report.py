"""`segcore report`: the page of a work directory."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from segcore.errors import InputError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segcore report",
        description="Write one self-contained HTML page about a training run: curves, scores, gallery, recipe.",
    )
    parser.add_argument("work_dir", metavar="WORK_DIR", help="folder of a run of <paper>-train")
    parser.add_argument("--out", default="", metavar="FILE", help="page to write (default: WORK_DIR/report.html)")
    parser.add_argument("--gallery", type=int, default=6, metavar="N", help="pictures, spread over the test images")
    parser.add_argument("--keep-gallery", action="store_true", help="show the pictures of WORK_DIR/gallery as they are")
    parser.add_argument(
        "--data", "--run.data", default="", metavar="DIR", help="folder of the data set (default: the run's)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run `segcore report WORK_DIR`.

    Raises:
        InputError: if the folder holds no run with weights, or its data set cannot be read.
    """
    options = _parser().parse_args(list(argv))
    if options.gallery < 0:
        raise InputError(f"--gallery must not be negative, got {options.gallery}")
    from segcore.report.build import report_run  # torch loads only here, so --help is instant

    count = None if options.keep_gallery else options.gallery
    out = options.out or str(Path(options.work_dir, "report.html"))
    page = report_run(options.work_dir, out, gallery=count, data_root=options.data, device=options.device)
    print(f"wrote {page}")
    return 0
