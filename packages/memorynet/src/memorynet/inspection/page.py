"""The memory as a page: the cosine of every two classes as a heat map, the most similar pairs, the rarest classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memorynet.inspection.content import MemoryContent, memory_of
from segcore.pages.charts import heat_map
from segcore.pages.page import Cell, Chart, Column, Note, Page, Part, Row, Section, Table, number
from segcore.weights.files import LoadedCheckpoint

PAIRS = 10
"""Lines of the table of pairs on the page of a run."""
NOT_COUNTED = "every class has a vector; this file does not count updates"
"""Stands in place of an empty `update_table`."""
_CELL, _MARGIN = 15, 190
"""Smallest width of a cell and room for the names, pixels."""


def memory_page(content: MemoryContent, order: Sequence[int], *, pairs: int, source: str) -> Page:
    """Return the page of a memory.

    Args:
        order: the classes from top to bottom and from left to right.
        pairs: lines of the table of similar pairs.
        source: name of the checkpoint.
    """
    _, slots, channels = content.rows.shape
    per_class = f"{slots} {'slots' if slots > 1 else 'slot'} of {channels} channels per class"
    steps = f"{content.iteration} training steps" if content.iteration else ""
    return Page(
        title=f"Memory of {len(content.names)} classes",
        subtitle=source,
        facts=(per_class, steps),
        headline=(),
        sections=(Section("Similarity", _parts(content, order, pairs)),),
    )


def report_sections(loaded: LoadedCheckpoint) -> tuple[Section, ...]:
    """Return what a run's page shows of its memory, similar classes beside each other."""
    content = memory_of(loaded)
    return (Section("Memory", _parts(content, content.grouped(), PAIRS)),)


def pair_table(content: MemoryContent, count: int) -> Table:
    """Return the most similar pairs of classes, the most similar first."""
    rows = [
        (Cell(content.names[first]), Cell(content.names[second]), number(cosine, 3))
        for first, second, cosine in content.closest(count)
    ]
    return Table("most similar in the memory", (Column("class"), Column("class"), Column("cosine", True)), rows)


def update_table(content: MemoryContent) -> Table:
    """Return the classes with the fewest updates first; without counts, those that are empty."""
    counts = content.updates
    title = "rarest in training" if counts is not None else "never seen (this file does not count updates)"
    numbers = range(len(content.names))
    if counts is None:
        chosen = [i for i in numbers if content.is_empty[i]]
    else:
        chosen = sorted(numbers, key=lambda i: int(counts[i]))
    lengths = content.lengths()
    rows: list[tuple[Cell, ...]] = []
    for i in chosen:
        count = None if counts is None else int(counts[i])
        share = None if count is None or not content.iteration else 100 * count / content.iteration
        length = Cell("empty", 0.0) if content.is_empty[i] else Cell(f"{lengths[i]:.3g}", float(lengths[i]))
        rows.append((Cell(content.names[i]), number(count, 0), number(share, 1), length))
    headings = ("updates", "% of the steps", "length")
    return Table(title, (Column("class"), *(Column(heading, True) for heading in headings)), rows)


def _parts(content: MemoryContent, order: Sequence[int], pairs: int) -> tuple[Part, ...]:
    names = [content.names[i] for i in order]
    cosine = content.similarity()[np.ix_(order, order)]
    text = "Cosine similarity of the classes' vectors in the memory; with several vectors, of the two most similar."
    if content.is_empty.any():
        empty = [name for name, is_empty in zip(content.names, content.is_empty, strict=True) if is_empty]
        text += f" Gray: never seen ({', '.join(empty)})."
    updates = update_table(content)
    return (
        Note(text),
        Chart(
            "Cosine of every two classes",
            heat_map(cosine, names, name="cosine", top=1.0),
            summary=f"Heat map of {len(names)} classes; the table below lists the most similar pairs.",
            min_width=_MARGIN + _CELL * len(names),
        ),
        Row((pair_table(content, pairs), updates if updates.rows else Note(NOT_COUNTED))),
    )
