"""`memorynet-memory CHECKPOINT`: what a trained memory holds, as a page with a heat map, and as two tables."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segcore.commands.parsing import run_guarded
from segcore.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table as ConsoleTable

    from segcore.report.page import Table

PROGRAM = "memorynet-memory"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Show what the memory of a checkpoint holds: an HTML page with a heat map of the cosine similarity "
        "of every two classes, and tables of the most similar pairs and the rarest classes.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="weights: ours (.safetensors) or a published .pth")
    parser.add_argument("--out", default="memory.html", metavar="FILE", help="page to write (default: memory.html)")
    parser.add_argument(
        "--rows",
        type=int,
        default=10,
        metavar="N",
        help="lines of each table printed, and of the page's pairs (default: 10)",
    )
    order = "classes: as the data set numbers them (default); similarity: similar ones beside each other"
    parser.add_argument("--order", choices=("classes", "similarity"), default="classes", help=order)
    names = "names for a published file, which has none: a data set (ade20k, ...) or a file of class names"
    parser.add_argument("--classes", default="", metavar="NAME", help=names)
    unsafe = "unpickle a .pth that holds more than tensors: runs code of the file, only for files you made yourself"
    parser.add_argument("--unsafe", action="store_true", help=unsafe)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """memorynet-memory CHECKPOINT [--out FILE.html] [--order similarity] ..."""
    return run_guarded(PROGRAM, argv, _show)


def _show(words: list[str]) -> int:
    options = _parser().parse_args(words)
    out = Path(options.out)
    if options.rows < 1:
        raise InputError(f"--rows must be at least 1, got {options.rows}")
    if out.suffix.lower() != ".html":
        raise InputError(f"--out must name a .html file, got {out}")
    from rich.console import Console  # with torch and the drawing, only where something is shown

    from memorynet.inspection.content import read_memory
    from memorynet.inspection.page import NOT_COUNTED, memory_page, pair_table, update_table
    from segcore.report.render import write_page

    content = read_memory(options.checkpoint, classes=options.classes, unsafe=options.unsafe)
    order = content.grouped() if options.order == "similarity" else list(range(len(content.names)))
    write_page(out, memory_page(content, order, pairs=options.rows, source=options.checkpoint))
    console = Console(soft_wrap=True, highlight=False)
    console.print(_for_console(pair_table(content, options.rows), options.rows))
    updates = update_table(content)
    console.print(_for_console(updates, options.rows) if updates.rows else NOT_COUNTED)
    console.print(f"wrote {out}", markup=False)
    return 0


def _for_console(table: Table, rows: int) -> ConsoleTable:
    """Return the first rows of a page's table."""
    from rich.table import Table as ConsoleTable
    from rich.text import Text

    result = ConsoleTable(title=table.title)
    for column in table.columns:
        result.add_column(column.name, justify="right" if column.is_number else "left")
    for row in table.rows[:rows]:
        result.add_row(*(Text(cell.text) for cell in row))
    return result
