"""Charts as plotly figures with one theme; colors are the CSS variables of the page, so they follow light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

_COLORS = 8
"""Series colors of the page: --series-1 to --series-8."""
_DOTS = 40
"""Curves of at most this many points show each of them."""
_OUTLINE = "rgba(128,128,128,0.6)"
"""Around areas in class colors, which may be those of the page."""
_AXIS = {
    "gridcolor": "var(--line)",
    "linecolor": "var(--quiet)",
    "zerolinecolor": "var(--line)",
    "tickcolor": "var(--quiet)",
    "exponentformat": "power",
    "automargin": True,
    "ticklabelstandoff": 3,
    "title": {"standoff": 10},
}
THEME = go.layout.Template(
    layout={
        "font": {"family": 'system-ui, -apple-system, "Segoe UI", sans-serif', "size": 12, "color": "var(--quiet)"},
        "colorway": [f"var(--series-{number + 1})" for number in range(_COLORS)],
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 50, "r": 12, "t": 16, "b": 40},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "legend": {"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"},
        "hoverlabel": {"bgcolor": "var(--panel)", "bordercolor": "var(--quiet)", "font": {"color": "var(--text)"}},
        "modebar": {
            "bgcolor": "var(--panel)",
            "color": "var(--quiet)",
            "activecolor": "var(--text)",
            "remove": ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
        },
    }
)


@dataclass(frozen=True)
class Series:
    """One curve: (iteration, value) points in the order of iterations, all finite.

    Attributes:
        group: curves of one group share a color and a place in the legend; a curve without one is its own.
    """

    name: str
    points: Sequence[tuple[float, float]]
    group: str = ""


def curves(
    series: Sequence[Series], *, unit: str, smooth: bool = False, reference: tuple[str, float] | None = None
) -> go.Figure:
    """Draw values over iterations.

    Args:
        unit: of the values, shown at the axis.
        smooth: draw long curves pale and their moving averages strong.
        reference: name and value of a dashed horizontal line.
    """
    figure = _figure(280)
    groups = list(dict.fromkeys(one.group or one.name for one in series))
    seen: set[str] = set()
    for one in series:
        group = one.group or one.name
        style = {"color": series_color(groups.index(group)), "width": 2}
        is_smooth = smooth and len(one.points) > _DOTS / 2
        common = {"name": label(one.name, 40), "hovertemplate": "%{y:.4g}", "line": style}
        if one.group:
            common |= {"legendgroup": group, "showlegend": group not in seen}
        seen.add(group)
        if is_smooth:
            pale = common | {"opacity": 0.35, "showlegend": False}
            figure.add_scatter(**_xy(one.points), **pale, hoverinfo="skip")
        mode = "lines+markers" if len(one.points) <= _DOTS else "lines"
        figure.add_scatter(**_xy(smoothed(one.points) if is_smooth else one.points), **common, mode=mode)
    if reference:
        figure.add_hline(
            reference[1],
            line={"dash": "dash", "color": "var(--quiet)", "width": 1},
            annotation={"text": label(reference[0], 40), "font": {"color": "var(--quiet)"}},
            annotation_position="top right",
        )
    figure.update_layout(hovermode="x unified" if len(groups) == len(series) else "closest")
    figure.update_layout(showlegend=len(groups) > 1, margin={"t": 16 + _legend_height(groups)})
    figure.update_xaxes(
        title={"text": "iteration"}, tickformat="~s", showgrid=False, ticks="outside", rangemode="tozero"
    )
    figure.update_yaxes(title={"text": unit}, rangemode="tozero")
    return figure


def class_bars(
    names: Sequence[str],
    values: Sequence[float | None],
    colors: Sequence[str],
    *,
    name: str,
    unit: str,
    marks: tuple[str, Sequence[float | None]] | None = None,
) -> go.Figure:
    """Draw one bar per class, the first on top.

    Args:
        values: of the classes; None where there is none.
        colors: of the classes, in CSS form.
        name: what the values are, for the legend.
        marks: name and values of a second result, drawn as lines across the bars.
    """
    figure = _figure(100 + 20 * len(names))
    rows = list(range(len(names)))
    hover = {"hovertemplate": f"%{{y}}<br>%{{fullData.name}} %{{x:.1f}} {label(unit, 20)}<extra></extra>"}
    marker = {"color": list(colors), "line": {"color": _OUTLINE, "width": 1}}
    figure.add_bar(x=values, y=rows, orientation="h", name=label(name, 40), marker=marker, **hover)
    if marks:
        line = {"color": "var(--text)", "width": 2}
        marker = {"symbol": "line-ns", "size": 13, "line": line, "color": "var(--text)"}
        figure.add_scatter(x=marks[1], y=rows, name=label(marks[0], 40), mode="markers", marker=marker, **hover)
    figure.update_layout(showlegend=marks is not None, bargap=0.25, margin={"b": 8})
    figure.update_xaxes(title={"text": unit}, rangemode="tozero", side="top")
    figure.update_yaxes(**_class_axis(names, 22), range=[len(names) - 0.4, -0.6], showgrid=False)
    return figure


def heat_map(matrix: np.ndarray, names: Sequence[str], *, name: str, top: float) -> go.Figure:
    """Draw a value for every two classes, the first class at the top and at the left; NaN stays empty.

    Args:
        name: what the values are.
        top: value of the brightest color; the darkest is the smallest value, rounded down to a tenth.

    Shapes:
        matrix (K, K), names K
    """
    count = len(names)
    figure = _figure(240 + 16 * max(count, 12))
    known = matrix[np.isfinite(matrix)]
    low = min(float(np.floor(10 * known.min()) / 10) if known.size else 0.0, top - 0.1)
    bar = {"orientation": "h", "thickness": 12, "lenmode": "pixels", "len": 240, "outlinewidth": 0, "ypad": 4}
    place = {"x": 0, "xref": "container", "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom"}
    figure.add_heatmap(
        z=np.round(matrix.astype(np.float64), 4),
        zmin=low,
        zmax=top,
        colorscale="Viridis",
        colorbar=bar | place,
        xgap=1,
        ygap=1,
        hoverongaps=False,
        hovertemplate=f"%{{y}}<br>%{{x}}<br>{label(name, 40)} %{{z:.3f}}<extra></extra>",
    )
    figure.update_layout(plot_bgcolor="var(--empty)", margin={"b": 56})
    figure.update_xaxes(**_class_axis(names, 22), side="top", tickangle=-90, showgrid=False, zeroline=False)
    figure.update_yaxes(**_class_axis(names, 22), range=[count - 0.5, -0.5], showgrid=False, zeroline=False)
    return figure


@dataclass(frozen=True)
class Bar:
    """A value with its interval; `group` decides the color."""

    name: str
    value: float
    low: float
    high: float
    group: int = 0


def intervals(bars: Sequence[Bar], *, unit: str) -> go.Figure:
    """Draw values as points with their intervals, the first on top."""
    figure = _figure(90 + 30 * len(bars))
    for row, bar in enumerate(bars):
        color = series_color(bar.group)
        figure.add_scatter(
            x=[bar.value],
            y=[row],
            name=label(bar.name, 40),
            mode="markers",
            marker={"color": color, "size": 10},
            error_x={"array": [bar.high - bar.value], "arrayminus": [bar.value - bar.low], "color": color, "width": 5},
            hovertemplate=f"%{{fullData.name}}<br>%{{x:.2f}} {label(unit, 20)}, "
            f"{bar.low:.2f} to {bar.high:.2f}<extra></extra>",
        )
    figure.update_layout(showlegend=False, margin={"b": 8, "t": 8})
    figure.update_xaxes(title={"text": unit}, side="top", zeroline=True)
    axis = _class_axis([bar.name for bar in bars], 22)
    figure.update_yaxes(**axis, range=[len(bars) - 0.4, -0.6], showgrid=False, zeroline=False)
    return figure


def tradeoff(points: Sequence[tuple[Bar, float]], *, cost: str, unit: str) -> go.Figure:
    """Draw values with their intervals over what they cost."""
    figure = _figure(270)
    for bar, x in points:
        color = series_color(bar.group)
        figure.add_scatter(
            x=[x],
            y=[bar.value],
            name=label(bar.name, 40),
            mode="markers",
            marker={"color": color, "size": 12},
            error_y={"array": [bar.high - bar.value], "arrayminus": [bar.value - bar.low], "color": color, "width": 4},
            hovertemplate="%{fullData.name}<br>%{y:.2f} "
            + label(unit, 20)
            + "<br>%{x:.4g} "
            + label(cost, 40)
            + "<extra></extra>",
        )
    figure.update_layout(showlegend=False, hovermode="closest")
    figure.update_xaxes(title={"text": cost}, rangemode="tozero", ticks="outside")
    figure.update_yaxes(title={"text": unit})
    return figure


def grouped_bars(
    groups: Sequence[str], series: Sequence[tuple[str, Sequence[float | None]]], *, unit: str
) -> go.Figure:
    """Draw one bar per series in every group."""
    names = [name for name, _ in series]
    figure = _figure(280 + _legend_height(names))
    for number, (name, values) in enumerate(series):
        hover = f"%{{fullData.name}}<br>%{{x}}: %{{y:.1f}} {label(unit, 20)}<extra></extra>"
        figure.add_bar(
            x=[label(group, 30) for group in groups],
            y=values,
            name=label(name, 40),
            marker={"color": series_color(number)},
            hovertemplate=hover,
        )
    figure.update_layout(barmode="group", margin={"t": 16 + _legend_height(names)}, bargap=0.25)
    figure.update_yaxes(title={"text": unit}, rangemode="tozero")
    return figure


def lines(series: Sequence[Series], *, x_title: str, unit: str) -> go.Figure:
    """Draw values over anything that is no iteration; every point is shown."""
    names = [one.name for one in series]
    figure = _figure(280 + _legend_height(names))
    for number, one in enumerate(series):
        style = {"color": series_color(number), "width": 2}
        hover = "%{fullData.name}<br>%{x:.4g}: %{y:.1f}<extra></extra>"
        figure.add_scatter(
            **_xy(one.points), name=label(one.name, 40), line=style, mode="lines+markers", hovertemplate=hover
        )
    figure.update_layout(showlegend=len(series) > 1, margin={"t": 16 + _legend_height(names)})
    figure.update_xaxes(title={"text": x_title}, showgrid=False, ticks="outside", rangemode="tozero")
    figure.update_yaxes(title={"text": unit}, rangemode="tozero")
    return figure


def series_color(number: int) -> str:
    """Return the color of a series."""
    return f"var(--series-{number % _COLORS + 1})"


def _legend_height(names: Sequence[str]) -> int:
    """Return the room for a legend above a chart of a phone's width, pixels; none for one name."""
    return 19 * -(-sum(min(len(name), 40) + 8 for name in names) // 42) if len(names) > 1 else 0


def smoothed(points: Sequence[tuple[float, float]], share: float = 0.08) -> list[tuple[float, float]]:
    """Average each value with its neighbors, over a window of `share` of the points."""
    half = int(len(points) * share / 2)
    result: list[tuple[float, float]] = []
    for i, (x, _) in enumerate(points):
        reach = min(half, i, len(points) - 1 - i)  # symmetric, so that the ends are not pulled inward
        window = [y for _, y in points[i - reach : i + reach + 1]]
        result.append((x, sum(window) / len(window)))
    return result


def label(text: str, limit: int) -> str:
    """Return a name for a chart: its middle left out where it is long, nothing that plotly takes for markup or TeX."""
    if len(text) > limit:
        text = f"{text[: limit // 2]}…{text[-(limit - limit // 2 - 1) :]}"
    return escape(text, quote=False).replace("$", "&#36;")


def _figure(height: int) -> go.Figure:
    return go.Figure(layout={"template": THEME, "height": height})


def _xy(points: Sequence[tuple[float, float]]) -> dict[str, np.ndarray]:
    x, y = np.array(points, np.float64).reshape(-1, 2).T
    return {"x": x, "y": y}


def _class_axis(names: Sequence[str], limit: int) -> dict[str, Any]:
    """Place the classes at 0, 1, ...: as categories, two names that are shortened to the same would fall together."""
    return {"tickvals": list(range(len(names))), "ticktext": [label(name, limit) for name in names]}
