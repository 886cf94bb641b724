"""From a `Page` to one self-contained HTML file: no network, light and dark, phone and desktop.

The plotting library's script (4.8 MB) is in the file once, and only where the page has a chart.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs

from segcore.files import atomic_write, make_folder
from segcore.pages.page import Chart, Page, Part, Row


def write_page(path: str | Path, page: Page) -> Path:
    """Write a page and return its path.

    Raises:
        InputError: if its folder cannot be made or written.
    """
    target = Path(path)
    make_folder(target.parent, "--out")
    with atomic_write(target) as file:
        file.write(render(page).encode())
    return target


def render(page: Page) -> str:
    """Return the page as HTML text; every name is escaped."""
    parts = [*page.headline, *(part for section in page.sections for part in section.parts)]
    script = get_plotlyjs() if _has_chart(parts) else ""
    return _templates().get_template("page.html").render(page=page, plotly=script)


def _has_chart(parts: Iterable[Part]) -> bool:
    return any(isinstance(part, Chart) or (isinstance(part, Row) and _has_chart(part.parts)) for part in parts)


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("segcore.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure_json"] = _figure_json
    return environment


def _figure_json(figure: Figure) -> str:
    """Return a figure as JSON that cannot end the script element that it stands in."""
    text = figure.to_json(engine="json") or ""
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")
