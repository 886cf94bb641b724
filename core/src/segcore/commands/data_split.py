"""`segcore data split`: divide a folder of images into training, validation and test lists."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from segcore.commands.datasets import DatasetOptions
from segcore.commands.parsing import parse_options
from segcore.errors import check
from segcore.recipe.ranges import BELOW_1, NOT_NEGATIVE

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

_DESCRIPTION = """Divide the images of a folder (images/ and masks/ without subfolders for splits) into train.txt,
val.txt and test.txt, lists of stems that the data set `folder` finds in ROOT. Each part gets its share of the images of
every class; images of one group stay together. The same seed gives the same lists; lists that exist are never
replaced."""


@dataclass(frozen=True, kw_only=True)
class SplitOptions(DatasetOptions):
    """How to divide."""

    val: Annotated[float, BELOW_1] = 0.15
    """Share of the images for validation."""
    test: Annotated[float, BELOW_1] = 0.15
    """Share of the images for tests; 0 makes no test list."""
    group: str = ""
    """What stays together: `folder` (images of one subfolder), or a regular expression on the image's path without
    suffix: images that match alike, in its groups where it has some. Empty: every image is on its own."""
    seed: Annotated[int, NOT_NEGATIVE] = 0
    """Another one gives another division."""
    out: str = ""
    """Folder of the lists; empty is ROOT."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.val > 0, "--val must be positive, got 0")
        check(self.val + self.test < 1, f"--val {self.val} and --test {self.test} leave no images to train on")


def main(words: list[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        InputError: if the folder or a mask cannot be used, is split by folders, or a list exists.
    """
    options = parse_options("segcore data split", _DESCRIPTION, SplitOptions, words)
    from rich.progress import Progress  # with torch, only where something is read

    from segcore.console import PlainConsole
    from segcore.data.class_pixels import count_pixels
    from segcore.data.split import divide, group_names, open_folder, refuse_existing, write_lists

    shares = {"train": 1 - options.val - options.test, "val": options.val, "test": options.test}
    parts = [name for name, share in shares.items() if share > 0]
    files = [Path(options.out or options.root, f"{name}.txt") for name in parts]
    own = {"classes": options.classes, "ignore": options.ignore, "mask_values": options.mask_values}
    dataset = open_folder(options.root, options.list, **own, max_pixels=options.max_pixels)
    refuse_existing(files)
    names = [item.name for item in dataset.items]
    groups = group_names(names, options.group)
    with Progress(console=PlainConsole(stderr=True), transient=True) as progress:
        task = progress.add_task("reading masks", total=len(names))
        counts = count_pixels(dataset, workers=options.threads(), progress=lambda: progress.advance(task))
    presence = counts > 0
    part_of = divide(presence, groups, [shares[name] for name in parts], options.seed)
    write_lists(files, names, part_of)
    console = PlainConsole(soft_wrap=True)
    console.print(_table(parts, dataset.classes.names, presence, part_of))
    console.print(f"wrote {', '.join(map(str, files))}")
    lists = "".join(f" --data.{name}-list {path}" for name, path in zip(parts, files, strict=True) if options.out)
    console.print(f"to train on them: <paper>-train own --run.data {options.root}{lists}")
    return 0


def _table(parts: list[str], classes: tuple[str, ...], presence: np.ndarray, part_of: np.ndarray) -> Table:
    """Return how many images of each part have each class."""
    from rich.table import Table

    table = Table("class", title="images")
    for part in parts:
        table.add_column(part, justify="right")
    for number, name in enumerate(classes):
        counts = [int(presence[part_of == part, number].sum()) for part in range(len(parts))]
        table.add_row(name, *map(str, counts), end_section=number + 1 == len(classes))
    table.add_row("all", *(str(int((part_of == part).sum())) for part in range(len(parts))))
    return table
