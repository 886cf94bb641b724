"""The page of a comparison, made of the parts that every page has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segcore.compare.atlas import AtlasImage, boundary_and_interior, by_segment_size, confusions
from segcore.compare.results import Results, difference_rows, p_text, ranking_rows, turned
from segcore.data.labels import IGNORE
from segcore.evaluation.image_counts import SIZE_NAMES
from segcore.evaluation.statistics import Estimate
from segcore.images.visualize import colorize
from segcore.pages import charts
from segcore.pages.charts import Bar, Series
from segcore.pages.page import (
    Cell,
    Chart,
    Column,
    Gallery,
    Listing,
    Note,
    Page,
    Part,
    Row,
    Sample,
    Section,
    Swatch,
    Table,
    Tile,
    number,
)
from segcore.pages.pictures import css_color, map_uri, photo_uri

_PAIRS = 5
_COSTS = (
    ("latency_ms", "latency, ms", 1.0),
    ("parameters", "parameters, M", 1e-6),
    ("memory_mib", "memory of training, MiB", 1.0),
    ("seconds", "training, min", 1 / 60),
)


def comparison_page(results: Results, images: Sequence[AtlasImage]) -> Page:
    """Return the page of a comparison."""
    comparison = results.comparison
    score = comparison.first.score
    seeds = sorted({len(head.runs) for head in comparison.heads})
    sections = [
        Section("Ranking", _ranking(results)),
        Section("Accuracy and cost", _costs(results)),
        Section("Training", _training(results)),
        Section("Classes", _classes(results)),
        Section("Errors", _errors(results)),
        *([Section("Images", (_gallery(results, images),))] if images else []),
        *([Section("Several scales and flip", _multi(results))] if results.multi else []),
        Section("How it was made", _recipes(results)),
    ]
    return Page(
        title=f"Which head is best on {score.data.dataset}?",
        subtitle=results.verdict(),
        facts=(
            f"{score.data.split}, {len(comparison.first.images)} images",
            f"{len(comparison.first.class_names)} classes",
            score.protocol.words,
            f"{' to '.join(map(str, seeds[:: max(len(seeds) - 1, 1)]))} seeds of each head",
        ),
        headline=(),
        sections=sections,
    )


def _colors(results: Results) -> dict[str, int]:
    return {head.name: place for place, head in enumerate(results.comparison.heads)}


def _bar(name: str, estimate: Estimate, group: int) -> Bar:
    return Bar(name, 100 * estimate.value, 100 * estimate.low, 100 * estimate.high, group)


def _ranking(results: Results) -> list[Part]:
    colors = _colors(results)
    names = [head.name for head in results.ranked]
    bars = [_bar(name, results.scores[name], colors[name]) for name in names]
    columns = [Column("rank", True), Column("head"), Column("seeds", True)]
    columns += [Column(name, True) for name in ("mIoU %", "from", "to", "boundary IoU %", "from", "to")]
    rows = []
    for row in ranking_rows(results):
        head = Cell(row[1], color=charts.series_color(colors[row[1]]))
        rows.append([number(row[0], 0), head, number(row[2], 0), *(number(value) for value in row[3:9])])
    note = (
        "Points are means over seeds; lines hold the true value with 95 % probability, images and seeds drawn again "
        "together. Boundary IoU counts the pixels within 2 % of the diagonal of an outline."
    )
    parts: list[Part] = [
        Note(note),
        Chart("mIoU", charts.intervals(bars, unit="%"), is_linked=True),
        Table("Ranking", columns, rows),
    ]
    if results.differences:
        parts.append(_differences("Paired differences of mIoU", difference_rows(results.differences)))
    parts += [Note(f"Missing: {name}: {text}") for name, text in results.comparison.missing.items()]
    return parts


def _differences(title: str, rows: Sequence[Sequence[Any]], first: str = "") -> Table:
    """Return a table of paired differences; `first` names a column before the heads."""
    columns = [*([Column(first)] if first else []), Column("better"), Column("worse"), Column("points", True)]
    columns += [Column("from", True), Column("to", True), Column("p, corrected", True), Column("significant")]
    shown = []
    for *names, value, low, high, p, is_significant in rows:
        told = Cell("yes" if is_significant else "no")
        shown.append([*map(Cell, names), *(number(x) for x in (value, low, high)), Cell(p_text(p), p), told])
    return Table(title, columns, shown)


def _costs(results: Results) -> list[Part]:
    colors = _colors(results)
    parts: list[Part] = []
    for name, title, factor in _COSTS:
        points = []
        for head in results.comparison.heads:
            value = head.cost.get(name) if name in ("latency_ms", "parameters") else head.mean(name)
            if value is not None and np.isfinite(value):
                points.append((_bar(head.name, results.scores[head.name], colors[head.name]), factor * float(value)))
        if points:
            parts.append(
                Chart(f"mIoU and {title}", charts.tradeoff(points, cost=title, unit="mIoU, %"), is_linked=True)
            )
    cost = next((head.cost for head in results.comparison.heads if head.cost), None)
    where = f"Latency: one image of {cost['input']} on {cost['device']}, precision {cost['amp']}. " if cost else ""
    columns = [Column("head"), *(Column(name, True) for name in ("parameters, M", "GMACs", "latency, ms"))]
    columns += [Column("training, min", True), Column("memory of training, MiB", True)]
    rows = [
        [Cell(row[1], color=charts.series_color(colors[row[1]])), *(number(value) for value in row[9:12]),
         number(row[12], 1), number(row[13], 0)]
        for row in ranking_rows(results)
    ]  # fmt: skip
    text = "Click a point to mark its head in all charts and tables."
    if not parts:
        return [Note("Nothing was measured.")]
    return [Note(where + text), Row(parts[:2]), Row(parts[2:]), Table("Costs", columns, rows)]


def _training(results: Results) -> list[Part]:
    losses, mious = [], []
    for head in results.comparison.heads:
        for run in head.runs:
            name = f"{head.name}"
            losses.append(Series(name, run.losses, head.name))
            mious.append(Series(name, [(x, 100 * y) for x, y in run.mious], head.name))
    note = "One curve a run; the losses are the papers' own, so their heights do not compare."
    drawn = [
        Chart(title, charts.curves([one for one in series if one.points], unit=unit, smooth=title == "Training loss"))
        for title, series, unit in (("Training loss", losses, "loss"), ("Validation mIoU", mious, "%"))
        if any(one.points for one in series)
    ]
    return [Note(note), Row(drawn)] if drawn else [Note("Nothing was logged.")]


def _classes(results: Results) -> list[Part]:
    comparison, colors = results.comparison, _colors(results)
    names = [head.name for head in results.ranked]
    palette = [css_color(np.asarray(color, np.uint8)) for color in comparison.palette]
    rows = [
        [Cell(name, color=color), *(number(100 * scores[head].value) for head in names)]
        for name, color, scores in zip(comparison.first.class_names, palette, results.class_scores, strict=True)
    ]
    columns = [Column("class"), *(Column(name, True) for name in names)]
    parts: list[Part] = [Table("IoU of each class, %", columns, rows)]
    if len(names) > 1:
        best, second = names[:2]
        bars: list[Bar] = []
        for name, differences in zip(comparison.first.class_names, results.class_differences, strict=True):
            (found,) = [d for d in differences if {d.first, d.second} == {best, second}]
            e = (found if found.first == best else turned(found)).estimate
            if np.isfinite(e.value):
                bars.append(_bar(name, e, colors[best] if e.value > 0 else colors[second]))
        chart = charts.intervals(bars, unit="points")
        parts.append(Chart(f"Difference of IoU: {best} (right of 0) and {second} (left)", chart))
        by_class = [
            [name, *row]
            for name, differences in zip(comparison.first.class_names, results.class_differences, strict=True)
            for row in difference_rows(differences)
            if np.isfinite(row[5]) and row[2] is not None
        ]
        parts.append(_differences("Paired differences of every class", by_class, "class"))
    return parts


def _errors(results: Results) -> list[Part]:
    heads = results.comparison.heads  # in the order of the colors
    series = [(head.name, [_percent(share) for share in boundary_and_interior(head)]) for head in heads]
    places = charts.grouped_bars(("near an outline", "interior"), series, unit="pixels right, %")
    series = [(head.name, [_percent(share) for share in by_segment_size(head)]) for head in heads]
    sizes = charts.grouped_bars(SIZE_NAMES, series, unit="pixels right, %")
    columns = [Column("head"), Column("labeled"), Column("taken for"), Column("% of the class", True)]
    columns.append(Column("% of all pixels", True))
    rows = [
        [Cell(c.head), Cell(c.label), Cell(c.taken_for), number(100 * c.share, 1), number(100 * c.of_all)]
        for head in heads
        for c in confusions(head, _PAIRS)
    ]
    return [
        Row((Chart("Boundary against interior", places), Chart("Size of the segment, share of the image", sizes))),
        Table("Most confused classes", columns, rows),
    ]


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _gallery(results: Results, images: Sequence[AtlasImage]) -> Gallery:
    comparison = results.comparison
    palette = np.asarray(comparison.palette, np.uint8)
    present: set[int] = set()
    samples: list[Sample] = []
    for image in images:
        truth = image.sample.label
        layers: list[Tile] = []
        if truth is not None:
            present |= set(np.unique(truth).tolist())
            layers.append(Tile("label", map_uri(colorize(truth, palette))))
        for head in results.ranked:
            prediction = image.predictions[head.name]
            present |= set(np.unique(prediction).tolist())
            right = "" if truth is None else f" · {_right(prediction, truth)}"
            layers.append(Tile(f"{head.name}{right}", map_uri(colorize(prediction, palette))))
        samples.append(Sample(f"{image.sample.name} · {image.reason}", photo_uri(image.sample.image), layers))
    named = enumerate(zip(comparison.first.class_names, palette, strict=True))
    legend = [Swatch(name, css_color(color)) for index, (name, color) in named if index in present]
    note = "Predictions of each head's first seed; the images are chosen by all seeds. The slider lays the maps over."
    return Gallery(samples, legend, note)


def _right(prediction: np.ndarray, truth: np.ndarray) -> str:
    is_labeled = truth != IGNORE
    return f"{100 * float((prediction == truth)[is_labeled].mean()):.1f} %" if is_labeled.any() else ""


def _multi(results: Results) -> list[Part]:
    colors = _colors(results)
    bars = [_bar(name, estimate, colors[name]) for name, estimate in results.multi.items()]
    columns = [Column("head"), *(Column(name, True) for name in ("gain, points", "from", "to", "p, corrected"))]
    rows = [
        [Cell(name), *(number(100 * x) for x in (e.value, e.low, e.high)), Cell(p_text(e.p), e.p)]
        for name, e in results.multi.items()
    ]
    return [Row((Chart("Gain in mIoU", charts.intervals(bars, unit="points")), Table("Gain in mIoU", columns, rows)))]


def _recipes(results: Results) -> list[Part]:
    comparison = results.comparison
    flat = {head.name: dict(_flat(head.recipe)) for head in comparison.heads}
    options = list(dict.fromkeys(option for values in flat.values() for option in values))
    ignored = ("run.work_dir", "run.seed", "published.")
    rows = []
    for option in options:
        values = [flat[head.name].get(option, "–") for head in comparison.heads]
        if len(set(values)) > 1 and not option.startswith(ignored):
            rows.append([Cell(option), *map(Cell, values)])
    columns = [Column("option"), *(Column(head.name) for head in comparison.heads)]
    commands = "\n".join(comparison.commands) or "\n".join(
        f"segcore train {run.meta.paper} {run.folder}/recipe.json" for head in comparison.heads for run in head.runs
    )
    parts: list[Part] = [Listing("Commands", commands)]
    if rows:
        parts.append(Table("What differs between the recipes; everything else is the same", columns, rows))
    return parts


def _flat(part: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in part.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{before}{name}.")
        else:
            found.append((f"{before}{name}", " ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return found
