"""Line charts as inline SVG: axes, ticks at round numbers, units; colors come from the page's CSS variables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from segcore.report.run_report import Series

WIDTH, HEIGHT = 420, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 14, 12, 40
_COLORS = 4
"""Series colors of the page: --series-1 to --series-4."""


def round_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` multiples of 1, 2, 2.5 or 5 times a power of ten between two values."""
    if not high > low:
        return [low]
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def smoothed(points: Sequence[tuple[float, float]], share: float = 0.08) -> tuple[tuple[float, float], ...]:
    """Average each value with its neighbors, over a window of `share` of the points."""
    half = int(len(points) * share / 2)
    result: list[tuple[float, float]] = []
    for i, (x, _) in enumerate(points):
        reach = min(half, i, len(points) - 1 - i)  # symmetric, so that the ends are not pulled inward
        window = [y for _, y in points[i - reach : i + reach + 1]]
        result.append((x, sum(window) / len(window)))
    return tuple(result)


def short_number(value: float) -> str:
    """Format an axis value in few characters: 0.05, 1200, 120k, 1.2e-4."""
    size = abs(value)
    if value == 0:
        return "0"
    if size >= 10_000:
        return f"{value / 1000:g}k"
    if size >= 0.01:
        return f"{value:g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    unit: str,
    format_value: Callable[[float], str] = short_number,
    from_zero: bool = True,
    smooth: bool = False,
    reference: tuple[str, float] | None = None,
) -> str:
    """Draw curves over iterations.

    Args:
        unit: of the values, shown at the axis.
        from_zero: the value axis starts at 0.
        smooth: draw the raw curve pale and its moving average strong.
        reference: name and value of a dashed horizontal line.

    Returns:
        A <figure> element; one that says so where there is no point to draw.
    """
    points = [point for one in series for point in one.points]
    if not points:
        return f'<figure><figcaption>{escape(title)}</figcaption><p class="quiet">nothing was logged</p></figure>'
    values = [y for _, y in points] + ([reference[1]] if reference else [])
    low, high = (0.0 if from_zero and min(values) >= 0 else min(values)), max(values)
    high = high + (0.05 * (high - low) or abs(high) * 0.1 or 1.0)
    plot = _Plot(min(0.0, *(x for x, _ in points)), max(x for x, _ in points), low, high)
    body = [plot.axes(unit, format_value)]
    if reference:
        body.append(plot.level(reference[0], reference[1]))
    for i, one in enumerate(series):
        body.append(plot.curve(one, i % _COLORS + 1, smooth, format_value))
    names = "".join(f'<span class="key s{i % _COLORS + 1}">{escape(one.name)}</span>' for i, one in enumerate(series))
    keys = f'<span class="keys">{names}</span>' if len(series) > 1 else ""
    return (
        f"<figure><figcaption>{escape(title)}{keys}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(body)}</svg></figure>'
    )


class _Plot:
    """Maps iterations and values to SVG coordinates and draws in them."""

    def __init__(self, x0: float, x1: float, y0: float, y1: float) -> None:
        self.x0, self.x1, self.y0, self.y1 = x0, max(x1, x0 + 1), y0, y1

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (HEIGHT - _TOP - _BOTTOM)

    def axes(self, unit: str, format_value: Callable[[float], str]) -> str:
        bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
        parts: list[str] = []
        for tick in round_ticks(self.y0, self.y1):
            y = f"{self.y(tick):.1f}"
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
            text = escape(format_value(tick))
            parts.append(f'<text x="{_LEFT - 7}" y="{y}" dy=".32em" text-anchor="end">{text}</text>')
        for tick in round_ticks(self.x0, self.x1, 6):
            x = f"{self.x(tick):.1f}"
            parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 4}"/>')
            parts.append(f'<text x="{x}" y="{bottom + 17}" text-anchor="middle">{short_number(tick)}</text>')
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        parts.append(f'<text x="{right}" y="{HEIGHT - 6}" text-anchor="end">iteration</text>')
        middle = (_TOP + bottom) / 2
        parts.append(
            f'<text transform="translate(13 {middle:.0f}) rotate(-90)" text-anchor="middle">{escape(unit)}</text>'
        )
        return "".join(parts)

    def level(self, name: str, value: float) -> str:
        y, right = self.y(value), WIDTH - _RIGHT
        return (
            f'<line class="level" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{right}" y="{y - 5:.1f}" text-anchor="end">{escape(name)}</text>'
        )

    def curve(self, series: Series, color: int, smooth: bool, format_value: Callable[[float], str]) -> str:
        if not series.points:
            return ""
        parts: list[str] = []
        if smooth and len(series.points) > 20:
            parts.append(f'<path class="raw s{color}" d="{self._path(series.points)}"/>')
            parts.append(f'<path class="curve s{color}" d="{self._path(smoothed(series.points))}"/>')
        else:
            parts.append(f'<path class="curve s{color}" d="{self._path(series.points)}"/>')
        if len(series.points) <= 40:
            for x, y in series.points:
                tip = f"iteration {x:g}: {format_value(y)}"
                parts.append(
                    f'<circle class="dot s{color}" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="3">'
                    f"<title>{escape(tip)}</title></circle>"
                )
        return "".join(parts)

    def _path(self, points: Sequence[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)
