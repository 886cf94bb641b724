"""`memorynet-memory CHECKPOINT`: what a trained memory holds, as a page with a heat map, and as two tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from segcore.commands.parsing import parse_options
from segcore.commands.running import command
from segcore.errors import check

if TYPE_CHECKING:
    from rich.table import Table as ConsoleTable

    from segcore.pages.page import Table

PROGRAM = "memorynet-memory"
_DESCRIPTION = (
    "Show what the memory of a checkpoint holds: an HTML page with a heat map of the cosine similarity of every two "
    "classes, and tables of the most similar pairs and the rarest classes."
)


@dataclass(frozen=True, kw_only=True)
class MemoryOptions:
    """What to show."""

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """Weights: ours (.safetensors) or a published .pth."""
    out: str = "memory.html"
    """Page to write."""
    rows: int = 10
    """Lines of each printed table, and pairs on the page."""
    order: Literal["classes", "similarity"] = "classes"
    """classes: as the data set numbers them; similarity: similar ones beside each other."""
    classes: str = ""
    """Names for a published file, which has none: a data set (ade20k, ...) or a file of class names."""
    unsafe: bool = False
    """Unpickle a .pth that holds more than tensors: runs code of the file, only for files you made yourself."""

    def __post_init__(self) -> None:
        check(self.rows >= 1, f"--rows must be at least 1, got {self.rows}")
        check(Path(self.out).suffix.lower() == ".html", f"--out must name a .html file, got {self.out}")


def _show(words: list[str]) -> int:
    """memorynet-memory CHECKPOINT [--out FILE.html] [--order similarity] ..."""
    options = parse_options(PROGRAM, _DESCRIPTION, MemoryOptions, words)
    from memorynet.inspection.content import read_memory  # with torch, only where something is shown
    from memorynet.inspection.page import NOT_COUNTED, memory_page, pair_table, update_table
    from segcore.console import PlainConsole
    from segcore.pages.render import write_page

    content = read_memory(options.checkpoint, classes=options.classes, unsafe=options.unsafe)
    order = content.grouped() if options.order == "similarity" else list(range(len(content.names)))
    out = write_page(options.out, memory_page(content, order, pairs=options.rows, source=options.checkpoint))
    console = PlainConsole(soft_wrap=True)
    console.print(_for_console(pair_table(content, options.rows), options.rows))
    updates = update_table(content)
    console.print(_for_console(updates, options.rows) if updates.rows else NOT_COUNTED)
    console.print(f"wrote {out}")
    return 0


def _for_console(table: Table, rows: int) -> ConsoleTable:
    """Return the first rows of a page's table."""
    from rich.table import Table as ConsoleTable

    result = ConsoleTable(title=table.title)
    for column in table.columns:
        result.add_column(column.name, justify="right" if column.is_number else "left")
    for row in table.rows[:rows]:
        result.add_row(*(cell.text for cell in row))
    return result


main = command(PROGRAM, _show)
