"""The pages in a real browser, opened from disk without a network: what a reader sees, clicks and hovers."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memorynet.inspection.content import MemoryContent
from memorynet.inspection.page import memory_page
from segcore.commands.main import main
from segcore.data.base import load_classes
from segcore.pages.page import Page
from segcore.pages.render import write_page
from segcore.report.run_page import run_page
from tests.data.test_folder import make_folder
from tests.report.sample import HOSTILE_NAMES, sample_report

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright: `nox -s browser`")

PHONE, DESKTOP = 390, 1440
"""Widths of the screen, pixels."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write a run's page, a memory's, and one of each with 150 classes."""
    folder = tmp_path_factory.mktemp("pages")
    names, many = HOSTILE_NAMES, load_classes("ade20k").names
    return {
        "run": write_page(folder / "run.html", run_page(sample_report(names))),
        "large run": write_page(folder / "large run.html", run_page(sample_report(many))),
        "check": _check_page(folder),
        "memory": write_page(folder / "memory.html", _memory_page(names)),
        "large memory": write_page(folder / "large memory.html", _memory_page(many)),
    }


def _check_page(folder: Path) -> Path:
    root = make_folder(folder / "mine", classes="\n".join(HOSTILE_NAMES))
    (root / "images" / "07.jpg").write_bytes(b"broken")
    assert main(["data", "check", "folder", "--root", str(root), "--page", str(folder / "check.html")]) == 2
    return folder / "check.html"


def _memory_page(names: tuple[str, ...]) -> Page:
    rows = np.random.default_rng(0).normal(size=(len(names), 1, 8)).astype(np.float32)
    rows[3] = 0
    content = MemoryContent(names, rows, np.arange(len(names)), len(names))
    return memory_page(content, list(range(len(names))), pairs=5, source="deep/" * 60 + "best.safetensors")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    program = shutil.which("chromium")
    if program is None:
        pytest.fail("the tests of the pages need Chromium: apt-get install chromium")
    with playwright.sync_playwright() as session:
        browser = session.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(chromium: Any, path: Path, *, width: int = DESKTOP, scheme: str = "light") -> Iterator[Any]:
    """Open a page without a network; afterwards, nothing may have been said on the console or asked from outside."""
    said: list[str] = []
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, has_touch=width == PHONE, offline=True
    )
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    page.on("dialog", lambda dialog: said.append(f"dialog {dialog.message}"))
    page.goto(path.as_uri())
    yield page
    context.close()
    assert said == []


def _texts(page: Any, cells: str) -> list[str]:
    return [text.strip() for text in page.locator(cells).all_text_contents()]


@pytest.mark.parametrize(("width", "scheme"), [(PHONE, "dark"), (DESKTOP, "light")])
@pytest.mark.parametrize("name", ["run", "large run", "check", "memory", "large memory"])
def test_a_page_opens_silently_with_every_chart_and_fits_the_screen(
    chromium: Any, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    with opened(chromium, pages[name], width=width, scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        too_wide = page.evaluate(
            "width => [...document.querySelectorAll('main > *, .panel, .note, h1, h3, nav, img')].filter(e => {"
            "  const box = e.getBoundingClientRect(); return box.left < 0 || box.right > width;"
            "}).map(e => e.outerHTML.slice(0, 80))",
            width,
        )
        assert too_wide == []
        marks = ".scatterlayer path.js-line, .barlayer path, .heatmaplayer image"
        drawn = page.locator(".chart").evaluate_all(
            "(charts, marks) => charts.map(c => !!c.querySelector(marks))", marks
        )
        assert drawn
        assert all(drawn)


@pytest.mark.parametrize("name", ["run", "memory"])
def test_panels_do_not_lie_over_each_other(chromium: Any, pages: dict[str, Path], name: str) -> None:
    for width in (PHONE, DESKTOP):
        with opened(chromium, pages[name], width=width) as page:
            boxes = page.evaluate(
                "[...document.querySelectorAll('.panel, .note, h2, nav, .slider, .gallery > .legend')]"
                ".map(e => e.getBoundingClientRect()).map(b => [b.left, b.top, b.right, b.bottom])"
            )
            for i, (left, top, right, bottom) in enumerate(boxes):
                for other in boxes[i + 1 :]:
                    apart = other[0] >= right or other[2] <= left or other[1] >= bottom or other[3] <= top
                    assert apart, (width, (left, top, right, bottom), other)


def test_a_click_on_a_heading_sorts_by_value_and_another_turns_the_order(chromium: Any, pages: dict[str, Path]) -> None:
    with opened(chromium, pages["run"]) as page:
        column = "tbody td:nth-child(2)"
        scores = page.get_by_role("button", name="single scale")
        scores.click()
        falling = [float(text) for text in _texts(page, column)]
        assert falling == sorted(falling, reverse=True)
        assert falling[0] == 100.0  # by value: as words, "75.00" would come first
        scores.click()
        assert [float(text) for text in _texts(page, column)] == falling[::-1]
        page.get_by_role("button", name="multi-scale + flip").click()
        assert _texts(page, "th[aria-sort]") == ["multi-scale + flip"]


def test_missing_values_stay_last_in_both_orders(chromium: Any, pages: dict[str, Path]) -> None:
    with opened(chromium, pages["run"]) as page:
        for order in ("descending", "ascending"):
            page.get_by_role("button", name="multi-scale + flip").click()
            assert page.locator(f"th[aria-sort={order}]").count() == 1
            assert _texts(page, "tbody td:nth-child(3)") == ["50.00"] + ["–"] * (len(HOSTILE_NAMES) - 1)


def test_names_sort_as_words_and_their_numbers_by_value(chromium: Any, pages: dict[str, Path]) -> None:
    with opened(chromium, pages["memory"]) as page:
        table = page.locator(".table").nth(1)
        table.get_by_role("button", name="class").click()
        names = table.locator("tbody .name").all_text_contents()
        assert names.index("7") < names.index("12") < names.index("sky")
        assert names[-1] == ""


def test_hovering_a_cell_shows_both_classes_and_the_value(chromium: Any, pages: dict[str, Path]) -> None:
    with opened(chromium, pages["large memory"]) as page:
        chart = page.locator(".plot .nsewdrag").first
        box = chart.bounding_box()
        size = box["width"] / 150, box["height"] / 150
        page.mouse.move(box["x"] + 0.5 * size[0], box["y"] + 1.5 * size[1])
        hover = page.locator(".hoverlayer .hovertext")
        hover.wait_for()
        assert re.fullmatch(r"buildingwallcosine [−-]?0\.\d{3}", hover.text_content())


def test_hovering_a_bar_shows_a_hostile_name_as_it_is(chromium: Any, pages: dict[str, Path]) -> None:
    with opened(chromium, pages["run"]) as page:
        chart = page.locator(".chart", has=page.get_by_role("heading", name="IoU", exact=True))
        bar = chart.locator(".barlayer .point path").nth(2)
        bar.scroll_into_view_if_needed()
        bar.hover(force=True)  # an area for the mouse lies over all bars
        hover = page.locator(".hoverlayer .hovertext").first
        hover.wait_for()
        assert "<b>bold</b>" in hover.text_content()
        assert "50.0 %" in hover.text_content()
        assert _texts(chart, ".ytick text")[1:3] == ["<script>ale…)</script>", "<b>bold</b>…%{y} $x^2$"]


def test_the_slider_lays_the_maps_over_their_image(chromium: Any, pages: dict[str, Path]) -> None:
    with opened(chromium, pages["run"]) as page:
        layer = page.locator(".layer").first
        opacity = "e => getComputedStyle(e).opacity"
        assert layer.evaluate(opacity) == "1"
        page.locator(".slider input").fill("30")
        assert layer.evaluate(opacity) == "0.3"
        behind = page.locator(".over").first.evaluate("e => getComputedStyle(e).backgroundImage")
        assert behind == f'url("{page.locator(".tiles img").first.get_attribute("src")}")'


def test_charts_turn_dark_with_the_page_and_offer_no_upload(chromium: Any, pages: dict[str, Path]) -> None:
    with opened(chromium, pages["run"]) as page:
        curve = playwright.expect(page.locator(".scatterlayer path.js-line").first)
        curve.to_have_css("stroke", "rgb(37, 99, 201)")
        page.emulate_media(color_scheme="dark")
        curve.to_have_css("stroke", "rgb(106, 165, 255)")
        buttons = page.locator(".modebar-btn").evaluate_all("all => all.map(e => e.dataset.title)")
        assert not [title for title in buttons if "hare" in title or "loud" in title]


def test_a_finger_on_a_chart_scrolls_the_page(chromium: Any, pages: dict[str, Path]) -> None:
    with opened(chromium, pages["run"], width=PHONE) as page:
        assert page.evaluate("matchMedia('(pointer: coarse)').matches")
        assert page.evaluate("document.querySelector('.plot').layout.dragmode") is False
        assert page.locator(".modebar-btn").count() == 0
