"""What may be said of compared heads: scores with intervals, paired differences with corrected p-values; as files."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segcore.compare.collect import ComparedHead, Comparison
from segcore.evaluation.statistics import Bootstrap, Difference, Estimate, corrected
from segcore.files import atomic_write

RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class Results:
    """Statistics of a comparison; scores and differences are fractions.

    Attributes:
        scores, boundary: mIoU and mean boundary IoU of each head.
        differences: of mIoU, of every two heads.
        class_scores: for each class, IoU of each head.
        class_differences: for each class, of every two heads; p is corrected over all classes together.
        multi: effect of several scales and flip on mIoU, of the heads tested both ways.
    """

    comparison: Comparison
    scores: Mapping[str, Estimate]
    boundary: Mapping[str, Estimate]
    differences: Sequence[Difference]
    class_scores: Sequence[Mapping[str, Estimate]]
    class_differences: Sequence[Sequence[Difference]]
    multi: Mapping[str, Estimate]

    @property
    def ranked(self) -> list[ComparedHead]:
        """The heads, best first."""
        return sorted(self.comparison.heads, key=lambda head: -self.scores[head.name].value)

    def difference(self, first: str, second: str) -> Difference:
        """Return how much the first head is above the second."""
        for found in self.differences:
            if {found.first, found.second} == {first, second}:
                return found if found.first == first else turned(found)
        raise KeyError((first, second))

    def verdict(self) -> str:
        """Return what the intervals allow to say about the best head, in a sentence or two."""
        best, *others = [head.name for head in self.ranked]
        if not others:
            return f"{best} is the only head."
        behind = [name for name in others if self.difference(best, name).is_significant]
        equal = [name for name in others if name not in behind]
        told = f"{best} has the highest mIoU"
        told += f", significantly above {_listed(behind)}." if behind else "."
        if equal:
            told += f" The study does not tell it from {_listed(equal)}."
        single = [head.name for head in self.ranked if len(head.runs) == 1]
        if single:
            told += (
                f" Of {_listed(single)} there is one seed: intervals and p-values are about that network on other "
                "images, and another seed may change the order."
            )
        return told


def turned(difference: Difference) -> Difference:
    """Return a difference seen from the second head."""
    e = difference.estimate
    return replace(
        difference, first=difference.second, second=difference.first, estimate=Estimate(-e.value, -e.high, -e.low, e.p)
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def analyze(comparison: Comparison, *, resamples: int = RESAMPLES) -> Results:
    """Return the statistics of a comparison."""
    drawn = Bootstrap({head.name: head.counts() for head in comparison.heads}, resamples=resamples)
    boundary = {head.name: head.counts(of_boundary=True) for head in comparison.heads}
    return Results(
        comparison=comparison,
        scores=drawn.scores(),
        boundary=Bootstrap(boundary, resamples=resamples).scores(),
        differences=drawn.differences(),
        class_scores=drawn.class_scores(),
        class_differences=drawn.class_differences(),
        multi=_multi_effects(comparison, resamples),
    )


def _multi_effects(comparison: Comparison, resamples: int) -> dict[str, Estimate]:
    found: list[Difference] = []
    for head in comparison.heads:
        if head.has_multi:
            runs = {head.name: head.counts(is_multi=True), "single": head.counts()}
            found += Bootstrap(runs, resamples=resamples).differences()
    return {difference.first: difference.estimate for difference in corrected(found)}


RANKING = (
    *("rank", "head", "seeds", "mIoU", "low", "high", "boundary IoU", "boundary low", "boundary high"),
    *("parameters M", "GMACs", "latency ms", "training min", "memory MiB", "ms+flip gain", "gain low", "gain high"),
)
"""Columns of ranking.csv; scores and their bounds in percent."""


def ranking_rows(results: Results) -> list[list[Any]]:
    """Return the ranking, one row a head; None where nothing was measured."""
    rows: list[list[Any]] = []
    for rank, head in enumerate(results.ranked, start=1):
        gain = results.multi.get(head.name)
        rows.append(
            [
                rank,
                head.name,
                len(head.runs),
                *_percents(results.scores[head.name]),
                *_percents(results.boundary[head.name]),
                _scaled(head.cost.get("parameters"), 1e-6),
                _scaled(head.cost.get("macs"), 1e-9),
                _scaled(head.cost.get("latency_ms"), 1),
                _scaled(head.mean("seconds"), 1 / 60),
                _scaled(head.mean("memory_mib"), 1),
                *(_percents(gain) if gain else (None, None, None)),
            ]
        )
    return rows


def _percents(estimate: Estimate) -> tuple[float | None, ...]:
    return tuple(_scaled(value, 100) for value in (estimate.value, estimate.low, estimate.high))


def _scaled(value: Any, factor: float) -> float | None:
    return None if value is None or math.isnan(value) else factor * float(value)


DIFFERENCES = ("first", "second", "difference", "low", "high", "p corrected", "significant")


def difference_rows(differences: Sequence[Difference]) -> list[list[Any]]:
    """Return paired differences, points of percent, the larger head first."""
    larger = [turned(d) if d.estimate.value < 0 else d for d in differences]
    return [[d.first, d.second, *_percents(d.estimate), d.estimate.p, d.is_significant] for d in larger]


def class_rows(results: Results) -> list[list[Any]]:
    """Return the IoU of every class and head with its interval, percent."""
    names = results.comparison.first.class_names
    return [
        [name, head.name, *_percents(scores[head.name])]
        for name, scores in zip(names, results.class_scores, strict=True)
        for head in results.ranked
    ]


def write_files(results: Results, folder: Path) -> list[Path]:
    """Write ranking.csv, differences.csv, classes.csv, class_differences.csv, comparison.md and comparison.json.

    Raises:
        InputError: if the folder or disk refuses.
    """
    names = results.comparison.first.class_names
    by_class = [
        [name, *row]
        for name, differences in zip(names, results.class_differences, strict=True)
        for row in difference_rows(differences)
    ]
    texts = {
        "ranking.csv": csv_text(RANKING, ranking_rows(results)),
        "differences.csv": csv_text(DIFFERENCES, difference_rows(results.differences)),
        "classes.csv": csv_text(("class", "head", "IoU", "low", "high"), class_rows(results)),
        "class_differences.csv": csv_text(("class", *DIFFERENCES), by_class),
        "comparison.md": markdown(results),
        "comparison.json": json.dumps(as_plain(results, by_class), indent=1, allow_nan=False) + "\n",
    }
    for name, text in texts.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())
    return [folder / name for name in texts]


def csv_text(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table as CSV; fractions with four digits, nothing where a value is missing."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_rounded(value) for value in row] for row in rows)
    return out.getvalue()


def _rounded(value: Any) -> Any:
    return "" if value is None else round(value, 4) if isinstance(value, float) else value


def as_plain(results: Results, by_class: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Return everything as JSON-ready data."""
    first = results.comparison.first

    def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
        return [dict(zip(columns, map(_known, row), strict=True)) for row in rows]

    return {
        "dataset": first.score.data.dataset,
        "split": first.score.data.split,
        "images": len(first.images),
        "protocol": first.score.protocol.words,
        "verdict": results.verdict(),
        "ranking": table(RANKING, ranking_rows(results)),
        "differences": table(DIFFERENCES, difference_rows(results.differences)),
        "classes": table(("class", "head", "IoU", "low", "high"), class_rows(results)),
        "class_differences": table(("class", *DIFFERENCES), by_class),
        "missing": dict(results.comparison.missing),
        "commands": list(results.comparison.commands),
    }


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def markdown(results: Results) -> str:
    """Return ranking and differences as Markdown."""
    first = results.comparison.first
    ranking = [
        [row[1], row[2], interval_text(row[3:6]), interval_text(row[6:9]), *(_short(value) for value in row[9:13])]
        for row in ranking_rows(results)
    ]
    pairs = [[*row[:2], interval_text(row[2:5]), p_text(row[5])] for row in difference_rows(results.differences)]
    lines = [
        f"{first.score.data.dataset} {first.score.data.split}, {len(first.images)} images, "
        f"{first.score.protocol.words}; intervals of 95 % over images and seeds",
        "",
        *_md_table(("head", "seeds", "mIoU %", "boundary IoU %", *RANKING[9:13]), ranking),
        "",
        results.verdict(),
        "",
        *_md_table(("better", "worse", "difference, points", "p, corrected"), pairs),
    ]
    lines += [line for name, text in results.comparison.missing.items() for line in ("", f"Missing: {name}: {text}")]
    return "\n".join(lines) + "\n"


def p_text(p: float) -> str:
    """Return a p-value for people."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def interval_text(values: Sequence[float | None]) -> str:
    """Return a value with its interval, or a dash."""
    value, low, high = values
    return "-" if value is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _md_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [list(columns), ["---"] * len(columns), *rows]
    return [f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines]
