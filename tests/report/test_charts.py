"""The charts of a report: ticks, smoothing, curves."""

from __future__ import annotations

import re

import numpy as np
import pytest

from segcore.report.charts import line_chart, round_ticks, short_number, smoothed
from segcore.report.run_report import Series


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.0, 160_000.0, [0.0, 50_000.0, 100_000.0, 150_000.0]),
        (0.0, 1.2e-4, [0.0, 2.5e-5, 5e-5, 7.5e-5, 1e-4]),
        (0.31, 0.44, [0.35, 0.4]),
        (3.0, 3.0, [3.0]),
    ],
)
def test_ticks_are_round_numbers_inside_the_range(low: float, high: float, expected: list[float]) -> None:
    assert round_ticks(low, high) == pytest.approx(expected)


def test_axis_numbers_are_short() -> None:
    values = (0, 0.25, 1500, 160_000, 1.2e-4, 1e-3)
    assert [short_number(value) for value in values] == ["0", "0.25", "1500", "160k", "1.2e-4", "1e-3"]


def test_smoothing_keeps_a_straight_line_and_its_ends() -> None:
    line = [(float(i), 3.0 - 0.5 * i) for i in range(50)]
    np.testing.assert_allclose(smoothed(line, 0.2), line)


def test_a_chart_maps_the_largest_value_highest_and_survives_a_single_point() -> None:
    svg = line_chart([Series("s", ((0.0, 1.0), (10.0, 4.0), (20.0, 2.0)))], title="t", unit="u")
    path = re.search(r'class="curve s1" d="M([^"]+)"', svg)
    assert path
    heights = [float(point.split()[1]) for point in path[1].split("L")]
    assert heights[1] < heights[2] < heights[0]
    assert "circle" in line_chart([Series("s", ((5.0, 0.0),))], title="t", unit="u")
    assert "nothing was logged" in line_chart([Series("s", ())], title="t", unit="u")
