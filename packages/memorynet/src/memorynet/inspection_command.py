"""`memorynet-memory CHECKPOINT`: what a trained memory holds, as a picture and two tables."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segcore.commands.running import run_guarded
from segcore.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from memorynet.inspection import MemoryContent

PROGRAM = "memorynet-memory"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Show what the memory of a checkpoint holds: a picture of the cosine similarity of every two "
        "classes with the number of updates of each, and tables of the most similar pairs and the rarest classes.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="weights: ours (.safetensors) or a published .pth")
    parser.add_argument("--out", default="memory.png", metavar="FILE", help="picture to write (default: memory.png)")
    parser.add_argument("--rows", type=int, default=10, metavar="N", help="lines of each table (default: 10)")
    order = "classes: as the data set numbers them (default); similarity: similar ones beside each other"
    parser.add_argument("--order", choices=("classes", "similarity"), default="classes", help=order)
    names = "names for a published file, which has none: a data set (ade20k, ...) or a file of class names"
    parser.add_argument("--classes", default="", metavar="NAME", help=names)
    unsafe = "unpickle a .pth that holds more than tensors: runs code of the file, only for files you made yourself"
    parser.add_argument("--unsafe", action="store_true", help=unsafe)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """memorynet-memory CHECKPOINT [--out FILE.png] [--order similarity] ..."""
    return run_guarded(PROGRAM, argv, _show)


def _show(words: list[str]) -> int:
    options = _parser().parse_args(words)
    out = Path(options.out)
    if options.rows < 1:
        raise InputError(f"--rows must be at least 1, got {options.rows}")
    if out.suffix.lower() != ".png":
        raise InputError(f"--out must name a .png file, got {out}")
    from rich.console import Console  # with torch and the drawing, only where something is shown

    from memorynet.inspection import read_memory
    from memorynet.inspection_picture import draw_memory, encode_png
    from segcore.files import atomic_write, make_folder

    content = read_memory(options.checkpoint, classes=options.classes, unsafe=options.unsafe)
    order = content.grouped() if options.order == "similarity" else list(range(len(content.names)))
    make_folder(out.parent, "--out")
    with atomic_write(out) as file:
        file.write(encode_png(draw_memory(content, order)))
    console = Console(soft_wrap=True, highlight=False)
    console.print(_pair_table(content, options.rows))
    if content.updates is None and not content.is_empty.any():
        console.print("every class has a vector; this file does not count updates")
    else:
        console.print(_update_table(content, options.rows))
    console.print(f"wrote {out}", markup=False)
    return 0


def _pair_table(content: MemoryContent, rows: int) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table("class", "class", title="most similar in the memory")
    table.add_column("cosine", justify="right")
    for pair in content.closest(rows):
        first, second = (escape(content.names[number]) for number in (pair.first, pair.second))
        table.add_row(first, second, f"{pair.cosine:.3f}")
    return table


def _update_table(content: MemoryContent, rows: int) -> Table:
    """Return the classes with the fewest updates, the rarest first; without counts, those that are empty."""
    from rich.markup import escape
    from rich.table import Table

    counts = content.updates
    title = "rarest in training" if counts is not None else "never seen (this file does not count updates)"
    table = Table("class", title=title)
    for name in ("updates", "of the steps", "length"):
        table.add_column(name, justify="right")
    numbers = range(len(content.names))
    if counts is None:
        chosen = [number for number in numbers if content.is_empty[number]]
    else:
        chosen = sorted(numbers, key=lambda number: int(counts[number]))
    lengths = content.lengths()
    for number in chosen[:rows]:
        count = None if counts is None else int(counts[number])
        share = "-" if count is None or not content.iteration else f"{100 * count / content.iteration:.1f} %"
        length = "empty" if content.is_empty[number] else f"{lengths[number]:.3g}"
        table.add_row(escape(content.names[number]), "-" if count is None else str(count), share, length)
    return table
