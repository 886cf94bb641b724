"""The command unept-dt-offset: write the boundary maps of a data set's labels as the published files.

Training does not need them, it computes the same maps from the label; they are for other code that reads such files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from segcore.commands.datasets import ROOT
from segcore.commands.parsing import parse_options
from segcore.commands.running import command
from segcore.errors import InputError
from segcore.recipe.ranges import NOT_NEGATIVE, check_ranges

if TYPE_CHECKING:
    from segcore.data.base import FileDataset
    from segcore.data.prepare.runner import Counts
    from unept.boundary.maps import BoundaryMaps

COMMAND = "unept-dt-offset"
_SPLITS = ("train", "val")
_DESCRIPTION = """Write the distance to the border of its class, and the direction away from it, of every pixel: one
MATLAB file per label, in a folder dt_offset in place of that of the labels. Training computes the same maps by itself
and reads these files where it finds them. Runs on all cores; stopped, it goes on where it was; files that exist stay as
they are."""


@dataclass(frozen=True, kw_only=True)
class OffsetOptions:
    """Which labels to write the maps of."""

    dataset: Annotated[
        tyro.conf.Positional[Literal["ade20k", "pascal_context_60", "camvid"]], tyro.conf.arg(metavar="DATASET")
    ]
    """Name of a data set: ade20k, pascal_context_60 or camvid."""
    root: Annotated[Path, ROOT]
    """Folder of the data set."""
    split: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Split to write, may be given several times; without it, train and val. Only train is trained on."""
    processes: Annotated[int, NOT_NEGATIVE] = 0
    """Worker processes; 0 takes all cores."""
    force: bool = False
    """Write over files that exist."""

    def __post_init__(self) -> None:
        check_ranges(self)


def _run(words: list[str]) -> int:
    options = parse_options(COMMAND, _DESCRIPTION, OffsetOptions, words)
    for split in options.split or _SPLITS:
        counts = write_offsets(options, split)
        rate = f" ({counts.written / counts.seconds:.0f} files/s)" if counts.written else ""
        written = f"wrote {counts.written} boundary files in {counts.seconds:.1f} s{rate}"
        print(f"{options.dataset}, {split}: {written}, kept {counts.kept} that were there")
    return 0


main = command(COMMAND, _run)


def write_offsets(options: OffsetOptions, split: str) -> Counts:
    """Write the files of one split.

    Raises:
        InputError: if the root does not hold the data set, a label cannot be used or a file cannot be written.
    """
    from segcore.data.matlab import is_whole_matlab
    from segcore.data.prepare.runner import FileFormat, Job, run_jobs
    from unept.boundary.files import encode_offsets, offset_file

    name, root = options.dataset, options.root
    form = FileFormat("MATLAB file", encode_offsets, is_whole_matlab)
    jobs: list[Job] = []
    for index, item in enumerate(_labels(name, root, split).items):
        path = None if item.label is None else offset_file(item.label)
        if path is None:
            raise InputError(f"{name}, {item.image}: expected its label below a folder annotations or label, got none")
        jobs.append(Job(path, maps_of_label, (name, root, split, index), form))
    return run_jobs(jobs, f"{name}, {split}", processes=options.processes, force=options.force)


@cache
def _labels(name: str, root: Path, split: str) -> FileDataset:
    from segcore.data import dataset_class

    return dataset_class(name)(root, split, check_files=False)


def maps_of_label(name: str, root: Path, split: str, index: int) -> BoundaryMaps:
    """Return the maps of one label of a split; worker processes list it once.

    Raises:
        InputError: if the label cannot be used.
    """
    from segcore.opencv import cv2
    from unept.boundary.maps import boundary_maps

    cv2.setNumThreads(0)  # one core per process
    return boundary_maps(_labels(name, root, split).load_label(index))


if __name__ == "__main__":
    raise SystemExit(main())
