"""`segcore data prepare`: turn the annotations of a data set into the files that training reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from segcore.commands.datasets import ROOT
from segcore.commands.parsing import parse_options
from segcore.data import DATASETS
from segcore.errors import InputError
from segcore.recipe.ranges import NOT_NEGATIVE, check_ranges

if TYPE_CHECKING:
    from segcore.data.prepare.runner import Counts

_PREPARATIONS = {
    "cityscapes": ("segcore.data.prepare.cityscapes", "prepare"),
    "pascal_context_59": ("segcore.data.prepare.pascal_context", "prepare"),
    "pascal_context_60": ("segcore.data.prepare.pascal_context", "prepare"),
    "coco_stuff_10k": ("segcore.data.prepare.coco_stuff", "prepare_10k"),
    "coco_stuff_10k_182": ("segcore.data.prepare.coco_stuff", "prepare_10k"),
    "coco_stuff_164k": ("segcore.data.prepare.coco_stuff", "prepare_164k"),
}
"""Data set -> module and function; 59/60 and 171/182 classes read the same files."""

_DESCRIPTION = f"""Turn the annotations of a data set into the files that training reads: Cityscapes polygons and
label ids into train ids, Pascal Context from trainval_merged.json, 459-class .mat files or train.pth and val.pth,
COCO-Stuff 10k and 164k into 171 classes. Runs on all cores; stopped, it goes on where it was; files that exist stay as
they are. Data sets: {", ".join(_PREPARATIONS)}."""


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """What to prepare."""

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """Name of a data set."""
    root: Annotated[Path, ROOT]
    """Folder of the data set."""
    source: Path | None = None
    """Pascal Context: the annotation file or its folder; without it, looked for in ROOT."""
    processes: Annotated[int, NOT_NEGATIVE] = 0
    """Worker processes; 0 takes all cores."""
    force: bool = False
    """Write over prepared files that exist."""

    def __post_init__(self) -> None:
        check_ranges(self)


def main(words: list[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        InputError: if the data set has no preparation, is not where the options say, or holds an unusable file.
    """
    options = parse_options("segcore data prepare", _DESCRIPTION, PrepareOptions, words)
    name, root = options.dataset, options.root
    if name not in _PREPARATIONS:
        raise InputError(_no_preparation(name))
    if not root.is_dir():
        raise InputError(f"the folder {root} does not exist; --root must name the data set's folder")
    module, function = _PREPARATIONS[name]
    prepare: Callable[..., Sequence[Counts]] = getattr(import_module(module), function)
    results = prepare(root, source=options.source, processes=options.processes, force=options.force)
    written, kept = sum(counts.written for counts in results), sum(counts.kept for counts in results)
    seconds = sum(counts.seconds for counts in results)
    rate = f" ({written / seconds:.0f} files/s)" if written else ""
    print(f"{name}: wrote {written} label files in {seconds:.1f} s{rate}, kept {kept} that were there")
    return 0


def _no_preparation(name: str) -> str:
    if name in DATASETS:
        return f"{name} is read as it is published: there is nothing to prepare"
    close = get_close_matches(name, DATASETS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(_PREPARATIONS)}"
    return f"there is no data set {name!r}; {hint}"
