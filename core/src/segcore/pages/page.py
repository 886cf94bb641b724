"""What a page holds, as plain data: sections of parts, each drawn by the template that its class names.

Imports nothing of core, so that a paper's description (`segcore.paper`) can speak of sections.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_TALL = 620
"""Charts higher than this, pixels, scroll inside their frame."""
_LONG = 12
"""Tables of more rows can be filtered."""


@dataclass(frozen=True)
class Note:
    """A paragraph."""

    template: ClassVar[str] = "note.html"
    text: str


@dataclass(frozen=True)
class Card:
    """One number that matters: its name, the formatted value, its unit, and a remark below it."""

    name: str
    value: str
    unit: str = ""
    remark: str = ""


@dataclass(frozen=True)
class Cards:
    """The numbers that matter, side by side."""

    template: ClassVar[str] = "cards.html"
    cards: Sequence[Card]


@dataclass(frozen=True)
class Chart:
    """A figure of `segcore.pages.charts` under a heading.

    Attributes:
        summary: what a reader who cannot see it is told.
        is_linked: a click on a point marks what has its name in all linked charts and in the tables.
        min_width: pixels; on a narrower screen the chart scrolls inside its frame.
    """

    template: ClassVar[str] = "chart.html"
    title: str
    figure: Figure
    summary: str = ""
    min_width: int = 0
    is_linked: bool = False

    @property
    def height(self) -> int:
        """Pixels."""
        layout: Any = self.figure.layout
        return layout.height

    @property
    def is_large(self) -> bool:
        """Whether it may need to scroll inside its frame."""
        return self.min_width > 0 or self.height > _TALL


@dataclass(frozen=True)
class Column:
    """Heading of a table's column; numbers stand to the right and are sorted by value."""

    name: str
    is_number: bool = False


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        value: what a column of numbers sorts by; None comes last in both directions.
        color: of a small square before the text, in CSS form; none where empty.
    """

    text: str
    value: float | None = None
    color: str = ""


def number(value: float | None, digits: int = 2) -> Cell:
    """Return the cell of a number; a dash where it is missing or NaN."""
    if value is None or math.isnan(value):
        return Cell("–")
    return Cell(f"{value:.{digits}f}", float(value))


@dataclass(frozen=True)
class Table:
    """A table that a click on a heading sorts."""

    template: ClassVar[str] = "table.html"
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]

    @property
    def has_filter(self) -> bool:
        """Whether a field above it leaves only the rows with some text."""
        return len(self.rows) > _LONG


@dataclass(frozen=True)
class Swatch:
    """A class and its color, in CSS form."""

    name: str
    color: str


@dataclass(frozen=True)
class Tile:
    """A picture with its caption; `source` is a data URI of `segcore.pages.pictures`."""

    caption: str
    source: str


@dataclass(frozen=True)
class Sample:
    """One image with what was made of it.

    Attributes:
        photo: data URI of the image.
        layers: pictures of the same shape, which the slider of the gallery lays over the image.
    """

    title: str
    photo: str
    layers: Sequence[Tile]


@dataclass(frozen=True)
class Gallery:
    """Images with their label maps, predictions or errors, and one slider for how opaque those are."""

    template: ClassVar[str] = "gallery.html"
    samples: Sequence[Sample]
    legend: Sequence[Swatch] = ()
    note: str = ""


@dataclass(frozen=True)
class Listing:
    """Long text in a fixed font that opens on a click."""

    template: ClassVar[str] = "listing.html"
    title: str
    text: str


@dataclass(frozen=True)
class Row:
    """Parts side by side where there is room."""

    template: ClassVar[str] = "row.html"
    parts: Sequence[Part]


Part = Note | Cards | Chart | Table | Gallery | Listing | Row


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        facts: short remarks in one line below the subtitle; empty ones are left out.
        headline: parts above the first section.
    """

    title: str
    subtitle: str
    facts: Sequence[str]
    headline: Sequence[Part]
    sections: Sequence[Section]
