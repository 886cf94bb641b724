"""The page of a comparison in a real browser, opened from disk without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.compare.atlas import AtlasImage
from segcore.compare.collect import collect
from segcore.compare.comparison_page import comparison_page
from segcore.compare.results import analyze
from segcore.data.base import Sample
from segcore.pages.render import write_page
from tests.browser.test_pages import DESKTOP, PHONE, chromium, opened, playwright
from tests.compare.sample import make_runs
from tests.report.sample import HOSTILE_NAMES

pytestmark = pytest.mark.browser
__all__ = ["chromium"]


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the page of three heads and classes whose names try to break it."""
    folder = tmp_path_factory.mktemp("comparison")
    names = tuple(dict.fromkeys(name or "nameless" for name in HOSTILE_NAMES))
    results = analyze(collect(make_runs(folder / "runs", names=names, with_multi=True)), resamples=300)
    generator = np.random.default_rng(0)
    image = generator.integers(0, 255, (24, 32, 3)).astype(np.uint8)
    label = generator.integers(0, len(names), (24, 32)).astype(np.uint8)
    predictions = {head.name: np.roll(label, i, axis=1) for i, head in enumerate(results.comparison.heads)}
    atlas = [AtlasImage(Sample(image, label, "<i>street</i>"), predictions, "heads differ most")]
    return write_page(folder / "comparison.html", comparison_page(results, atlas))


@pytest.mark.parametrize(
    ("width", "scheme"), [(PHONE, "dark"), (PHONE, "light"), (DESKTOP, "light"), (DESKTOP, "dark")]
)
def test_the_page_opens_silently_fits_and_nothing_overlaps(
    chromium: Any, comparison: Path, width: int, scheme: str
) -> None:
    with opened(chromium, comparison, width=width, scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        marks = ".scatterlayer path, .barlayer path"
        drawn = page.locator(".chart").evaluate_all(
            "(charts, marks) => charts.map(c => !!c.querySelector(marks))", marks
        )
        assert len(drawn) >= 10
        assert all(drawn)
        boxes = page.evaluate(
            "[...document.querySelectorAll('.panel:not(.panel .panel), .note, h2, nav, .slider')]"
            ".map(e => e.getBoundingClientRect()).map(b => [b.left, b.top, b.right, b.bottom])"
        )
        for i, (left, top, right, bottom) in enumerate(boxes):
            assert left >= 0
            assert right <= width
            for other in boxes[i + 1 :]:
                assert other[0] >= right or other[2] <= left or other[1] >= bottom or other[3] <= top


def test_tables_sort_by_value(chromium: Any, comparison: Path) -> None:
    with opened(chromium, comparison) as page:
        table = page.get_by_role("table", name="Costs")
        table.get_by_role("button", name="latency, ms").click()
        shown = [float(text) for text in table.locator("tbody td:nth-child(4)").all_text_contents()]
        assert shown == sorted(shown, reverse=True)
        assert len(set(shown)) == 3


def test_a_filter_leaves_the_rows_with_its_text(chromium: Any, comparison: Path) -> None:
    with opened(chromium, comparison) as page:
        rows = page.get_by_role("table", name="Paired differences of every class").locator("tbody tr")
        total = rows.count()
        field = page.get_by_role("searchbox", name="Filter Paired differences of every class")
        field.fill("SKY")
        visible = [row.text_content() for row in rows.all() if row.is_visible()]
        assert len(visible) == 3
        assert all("sky" in (text or "") for text in visible)
        field.fill("")
        assert sum(row.is_visible() for row in rows.all()) == total


def test_a_click_on_a_point_marks_its_head_everywhere_and_another_takes_it_back(
    chromium: Any, comparison: Path
) -> None:
    opacities = (
        "[...document.querySelectorAll('.chart[data-linked] .plot')]"
        ".map(plot => Object.fromEntries(plot.data.map(trace => [trace.name, trace.opacity ?? 1])))"
    )
    with opened(chromium, comparison) as page:
        chart = page.locator(".chart[data-linked]").nth(1)
        chart.scroll_into_view_if_needed()
        name = chart.locator(".plot").evaluate("plot => plot.data[0].name")
        point = chart.locator(".scatterlayer .trace").first.locator(".points path").first.bounding_box()
        place = (point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
        page.mouse.move(*place)
        playwright.expect(chart.locator(".hoverlayer text").first).to_contain_text(name)
        page.mouse.click(*place)
        playwright.expect(page.locator("tr.chosen").first).to_be_attached()
        for found in page.evaluate(opacities):
            assert found.pop(name) == 1
            assert set(found.values()) == {0.2}
        page.wait_for_timeout(400)  # else the two clicks are one double click, which resets the axes
        page.mouse.click(*place)
        playwright.expect(page.locator("tr.chosen")).to_have_count(0)
        assert all(set(found.values()) == {1} for found in page.evaluate(opacities))


def test_one_slider_fades_the_maps_of_all_heads(chromium: Any, comparison: Path) -> None:
    with opened(chromium, comparison) as page:
        page.locator(".slider input").fill("20")
        layers = page.locator(".layer").evaluate_all("all => all.map(e => getComputedStyle(e).opacity)")
        assert layers == ["0.2"] * 4  # label and three heads
        captions = page.locator(".tiles figcaption").all_text_contents()
        assert captions[:2] == ["image", "label"]
        assert captions[2].startswith("cgrseg-toy · 100.0 %")
