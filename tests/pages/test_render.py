"""Any page: one closed document that asks for nothing outside it, in which every name is text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from segcore.errors import InputError
from segcore.pages.charts import Series, curves
from segcore.pages.page import Cell, Chart, Column, Note, Page, Row, Section, Table, number
from segcore.pages.render import render, write_page
from segcore.report.run_page import run_page
from tests.report.sample import HOSTILE_NAMES, sample_report


class _Structure(HTMLParser):
    """Collects tags and addresses, and checks that every element is closed in order."""

    VOID = frozenset({"meta", "img", "input", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parse(page: str) -> _Structure:
    structure = _Structure()
    structure.feed(page)
    structure.close()
    assert structure.open == []
    return structure


def page_of(*parts: Note | Chart | Table | Row) -> Page:
    return Page("title", "", (), (), (Section("one", parts),))


def test_a_page_is_one_closed_document_without_an_outside_address() -> None:
    structure = parse(render(run_page(sample_report())))
    assert all(address.startswith(("data:", "#section-")) for address in structure.addresses)
    assert sum(address.startswith("data:image/") for address in structure.addresses) == 4


def test_headings_go_down_one_level_at_a_time() -> None:
    levels = [int(tag[1]) for tag in parse(render(run_page(sample_report()))).tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_names_from_outside_are_escaped_also_inside_a_chart() -> None:
    page = render(run_page(sample_report(HOSTILE_NAMES)))
    for raw in ("<script>alert", "<i>street", "Paper <2024>", "</pre><b>", "<b>bold"):
        assert raw not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 2
    parse(page)


def test_the_script_of_the_charts_is_there_once_and_only_with_a_chart() -> None:
    chart = Chart("loss", curves([Series("loss", ((0.0, 1.0), (1.0, 0.5)))], unit="loss"))
    sizes = [len(render(page_of(*parts))) for parts in ((Note("none"),), (chart,), (Row((chart, chart)),))]
    assert sizes[0] < 20_000
    assert 4_000_000 < sizes[1] < sizes[2] < sizes[1] + 20_000


def test_a_table_keeps_the_value_that_a_column_is_sorted_by() -> None:
    columns = (Column("class"), Column("IoU", True))
    page = render(
        page_of(Table("scores", columns, [(Cell("sky", color="#ff0000"), number(61.237)), (Cell("car"), number(None))]))
    )
    assert '<td class="number" data-value="61.237">61.24</td>' in page
    assert '<td class="number" data-value="">–</td>' in page
    assert 'style="background:#ff0000"' in page


def test_missing_numbers_are_a_dash() -> None:
    assert number(None) == number(float("nan")) == Cell("–")
    assert number(0.0, 1) == Cell("0.0", 0.0)


def test_a_page_is_written_into_a_new_folder(tmp_path: Path) -> None:
    page = page_of(Note("text"))
    path = write_page(tmp_path / "a" / "b" / "page.html", page)
    assert path.read_text("utf-8") == render(page)
    with pytest.raises(InputError, match=r"page\.html is a file, not a folder; give another --out"):
        write_page(path / "page.html", page)
