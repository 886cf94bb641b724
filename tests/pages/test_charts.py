"""The charts: what is drawn where, that names stay text, and that a page made from logs loads no torch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from segcore.pages.charts import Series, class_bars, curves, heat_map, label, smoothed


def test_smoothing_keeps_a_straight_line_and_its_ends() -> None:
    line = [(float(i), 3.0 - 0.5 * i) for i in range(50)]
    np.testing.assert_allclose(smoothed(line, 0.2), line)


def test_a_long_noisy_curve_is_drawn_pale_and_its_average_strong_in_one_color() -> None:
    points = [(float(i), float(i % 2)) for i in range(200)]
    raw, mean = curves([Series("loss", points)], unit="loss", smooth=True).data
    np.testing.assert_array_equal(raw.y, [y for _, y in points])
    assert np.ptp(mean.y[10:-10]) < 0.1
    assert (raw.line.color, raw.opacity) == (mean.line.color, 0.35)


def test_every_curve_has_its_own_color_and_a_legend_tells_them_apart() -> None:
    runs = [Series(f"run {i}", ((0.0, 1.0), (10.0, float(i)))) for i in range(3)]
    figure = curves(runs, unit="%", reference=("published", 43.6))
    assert [line.name for line in figure.data] == ["run 0", "run 1", "run 2"]
    assert len({line.line.color for line in figure.data}) == 3
    assert figure.layout.showlegend
    assert figure.layout.shapes[0].y0 == 43.6
    assert not curves(runs[:1], unit="%").layout.showlegend


def test_bars_stand_in_the_order_of_the_classes_from_the_top() -> None:
    figure = class_bars(
        ["a", "b"], [10.0, None], ["#ff0000", "#00ff00"], name="IoU", unit="%", marks=("ms", [20.0, 30.0])
    )
    bars, marks = figure.data
    assert list(bars.x) == [10.0, None]
    assert list(marks.x) == [20.0, 30.0]
    top, bottom = figure.layout.yaxis.range[1], figure.layout.yaxis.range[0]
    assert top < bars.y[0] < bars.y[1] < bottom
    assert list(bars.marker.color) == ["#ff0000", "#00ff00"]


def test_a_heat_map_keeps_classes_apart_whose_shortened_names_are_equal() -> None:
    names = ["x" * 240, "x" * 239 + "y" + "x" * 240, "12"]
    matrix = np.array([[1.0, 0.83, 0.9], [0.83, 1.0, np.nan], [0.9, np.nan, 1.0]])
    figure = heat_map(matrix, names, name="cosine", top=1.0)
    assert list(figure.layout.xaxis.tickvals) == [0, 1, 2]
    assert figure.layout.xaxis.ticktext[0] == figure.layout.xaxis.ticktext[1]
    (cells,) = figure.data
    np.testing.assert_array_equal(cells.z, matrix)
    assert (cells.zmin, cells.zmax) == (0.8, 1.0)


def test_a_heat_map_without_any_value_can_be_drawn() -> None:
    assert heat_map(np.full((1, 1), np.nan), ["a"], name="cosine", top=1.0).data[0].zmin < 1.0


def test_names_are_shortened_in_the_middle_and_hold_no_markup() -> None:
    assert label("first part, second part", 11) == "first… part"
    assert label("<b>&$x$", 22) == "&lt;b&gt;&amp;&#36;x&#36;"


def test_a_page_made_from_numbers_loads_no_torch() -> None:
    code = "import sys; from segcore.pages import charts, pictures, render; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
