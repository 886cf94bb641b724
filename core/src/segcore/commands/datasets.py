"""Which data set the words of a command mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from segcore.recipe import MAX_PIXELS, Data
from segcore.recipe.ranges import AT_LEAST_1, BYTE, NOT_NEGATIVE, check_ranges

ROOT = tyro.conf.arg(aliases=["--run.data"])


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """Where a data set is, and how it is read."""

    root: Annotated[str, ROOT] = ""
    """Folder of the data set."""
    list: str = ""
    """File of image stems, one per line: these images only."""
    classes: Annotated[str, tyro.conf.arg(aliases=["--data.classes"])] = ""
    """Data set folder: file of the class names; empty is ROOT/classes.txt or classes.json."""
    ignore: Annotated[int, BYTE, tyro.conf.arg(aliases=["--data.ignore"])] = 255
    """Data set folder: mask value without a label."""
    mask_values: Annotated[tuple[int, ...], BYTE, tyro.conf.arg(aliases=["--data.mask-values"])] = ()
    """Data set folder: mask value of each class, in the order of the classes; empty is 0, 1, 2, ..."""
    max_pixels: Annotated[int, AT_LEAST_1, tyro.conf.arg(aliases=["--data.max-pixels"])] = MAX_PIXELS
    """Refuse files of more pixels before decoding them."""
    workers: Annotated[int, NOT_NEGATIVE] = 0
    """Threads; 0 takes all cores, at most 8."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def data(self, name: str) -> Data:
        """Return the data section of a recipe for the data set of this name."""
        return Data(
            dataset=name,
            classes=self.classes,
            ignore=self.ignore,
            mask_values=self.mask_values,
            max_pixels=self.max_pixels,
        )

    def threads(self) -> int:
        """Return the number of threads."""
        from segcore.data.prepare.runner import available_cores

        return self.workers or min(available_cores(), 8)
