"""The command unept-dt-offset: write the boundary maps of a data set's labels as the published files.

Training does not need them, it computes the same maps from the label; they are for other code that reads such files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from segcore.commands.running import run_guarded
from segcore.errors import InputError

if TYPE_CHECKING:
    from segcore.data.base import FileDataset
    from segcore.data.prepare.runner import Counts
    from unept.boundary import BoundaryMaps

COMMAND = "unept-dt-offset"
DATASETS = ("ade20k", "pascal_context_60", "camvid")
_SPLITS = ("train", "val")
_DESCRIPTION = """Write the distance to the border of its class, and the direction away from it, of every pixel: one
MATLAB file per label, in a folder dt_offset in place of that of the labels. Training computes the same maps by itself
and reads these files where it finds them. Runs on all cores; stopped, it goes on where it was; files that exist stay as
they are."""


def main(argv: Sequence[str] | None = None) -> int:
    """unept-dt-offset DATASET --root DIR [--split NAME] [--processes N] [--force]"""
    return run_guarded(COMMAND, argv, _run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=COMMAND, description=_DESCRIPTION)
    parser.add_argument("dataset", metavar="DATASET", choices=DATASETS, help=", ".join(DATASETS))
    parser.add_argument("--root", "--run.data", required=True, metavar="DIR", help="folder of the data set")
    parser.add_argument(
        "--split",
        action="append",
        default=[],
        metavar="NAME",
        help=f"split to write, may be given several times (default: {' and '.join(_SPLITS)}; only train is trained on)",
    )
    parser.add_argument("--processes", type=int, default=0, metavar="N", help="worker processes (default: all cores)")
    parser.add_argument("--force", action="store_true", help="write over files that exist")
    return parser


def _run(words: list[str]) -> int:
    options = _parser().parse_args(words)
    if options.processes < 0:
        raise InputError(f"--processes must not be negative, got {options.processes}")
    for split in options.split or _SPLITS:
        counts = write_offsets(options.dataset, options.root, split, processes=options.processes, force=options.force)
        rate = f" ({counts.written / counts.seconds:.0f} files/s)" if counts.written else ""
        written = f"wrote {counts.written} boundary files in {counts.seconds:.1f} s{rate}"
        print(f"{options.dataset}, {split}: {written}, kept {counts.kept} that were there")
    return 0


def write_offsets(name: str, root: str, split: str, *, processes: int, force: bool) -> Counts:
    """Write the files of one split.

    Args:
        name: one of `DATASETS`.
        processes: worker processes; 0 takes all cores.
        force: write over files that exist.

    Raises:
        InputError: if the root does not hold the data set, a label cannot be used or a file cannot be written.
    """
    from segcore.data.matlab import is_whole_matlab
    from segcore.data.prepare.runner import FileFormat, Job, run_jobs
    from unept.boundary_files import encode_offsets, offset_file

    form = FileFormat("MATLAB file", encode_offsets, is_whole_matlab)
    jobs: list[Job] = []
    for index, item in enumerate(_labels(name, root, split).items):
        target = None if item.label is None else offset_file(item.label)
        if target is None:
            raise InputError(f"{name}, {item.image}: expected its label below a folder annotations or label, got none")
        jobs.append(Job(target, maps_of_label, (name, root, split, index), form))
    return run_jobs(jobs, f"{name}, {split}", processes=processes, force=force)


@cache
def _labels(name: str, root: str, split: str) -> FileDataset:
    from segcore.data import published_kind

    return published_kind(name)(Path(root), split, check_files=False)


def maps_of_label(name: str, root: str, split: str, index: int) -> BoundaryMaps:
    """Return the maps of one label of a split; worker processes list it once.

    Raises:
        InputError: if the label cannot be used.
    """
    import cv2

    from unept.boundary import boundary_maps

    cv2.setNumThreads(0)  # one core per process
    return boundary_maps(_labels(name, root, split).load_label(index))


if __name__ == "__main__":
    sys.exit(main())
