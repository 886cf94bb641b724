"""The page of one run (`segcore report`), made of the parts that every page has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from segcore.data.labels import IGNORE
from segcore.images.visualize import colorize, error_map
from segcore.pages import charts
from segcore.pages.charts import Series
from segcore.pages.page import (
    Card,
    Cards,
    Cell,
    Chart,
    Column,
    Gallery,
    Listing,
    Note,
    Page,
    Row,
    Sample,
    Section,
    Swatch,
    Table,
    Tile,
    number,
)
from segcore.pages.pictures import css_color, map_uri, photo_uri
from segcore.report.run_report import Picture, RunReport

_MULTI = "multi-scale + flip"


def run_page(report: RunReport) -> Page:
    """Return the page of a run."""
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return Page(
        title=f"{report.paper} {report.recipe_name}",
        subtitle=report.title,
        facts=(report.dataset, f"{report.iterations} iterations", report.date, versions),
        headline=(_cards(report),),
        sections=(
            Section("Training", (_training(report),)),
            Section("IoU per class", _classes(report)),
            Section("Predictions", (_gallery(report),)),
            *report.sections,
            Section("Recipe", (Listing("Resolved recipe", report.recipe),)),
        ),
    )


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _percent_text(value: float | None) -> str:
    return number(_percent(value)).text


def _cards(report: RunReport) -> Cards:
    published = report.published
    tested = f"{report.num_images} images tested" if report.num_images else report.scores_from
    cards = [
        Card(f"mIoU, {report.scores_from}", _percent_text(report.scores.get("mIoU")), "%", _published(published.miou))
    ]
    if report.scores_ms:
        multi = _percent_text(report.scores_ms.get("mIoU"))
        cards.append(Card(f"mIoU, {_MULTI}", multi, "%", _published(published.miou_ms)))
    cards.append(Card("pixel accuracy", _percent_text(report.scores.get("aAcc")), "%", tested))
    cards.append(Card("parameters", f"{report.parameters / 1e6:.2f}", "M", _published(published.params)))
    if report.seconds:
        cards.append(Card("training", _duration(report.seconds), remark="validation not counted"))
    return Cards(cards)


def _published(value: float | None) -> str:
    return f"published {value:g}" if value is not None else ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _training(report: RunReport) -> Row:
    published = report.published.miou
    in_percent = [Series(one.name, [(i, 100 * value) for i, value in one.points]) for one in report.mious]
    reference = ("published", published) if published is not None else None
    return Row(
        (
            _curves("Training loss", report.losses, unit="loss", smooth=True),
            _curves("Validation mIoU", in_percent, unit="%", reference=reference),
            _curves("Learning rate", report.rates, unit="learning rate"),
        )
    )


def _curves(
    title: str,
    series: Sequence[Series],
    *,
    unit: str,
    smooth: bool = False,
    reference: tuple[str, float] | None = None,
) -> Chart | Note:
    if not any(one.points for one in series):
        return Note(f"{title}: nothing was logged.")
    return Chart(title, charts.curves(series, unit=unit, smooth=smooth, reference=reference))


def _classes(report: RunReport) -> tuple[Note, Row]:
    """One bar per class in the order of the classes, and the same numbers as a table."""
    names, colors = report.class_names, [css_color(color) for color in report.palette]
    single, multi = _ious(report.scores, names), _ious(report.scores_ms, names)
    marks = (_MULTI, multi) if report.scores_ms else None
    bars = charts.class_bars(names, single, colors, name=report.scores_from, unit="%", marks=marks)
    columns = [Column("class"), Column(report.scores_from, True)]
    rows = [[Cell(name, color=color), number(iou)] for name, color, iou in zip(names, colors, single, strict=True)]
    if report.scores_ms:
        columns.append(Column(_MULTI, True))
        for row, iou in zip(rows, multi, strict=True):
            row.append(number(iou))
    note = f"Percent, {report.scores_from}" + (f"; the line marks {_MULTI}." if report.scores_ms else ".")
    return Note(note), Row((Chart("IoU", bars), Table("IoU, %", columns, rows)))


def _ious(scores: Mapping[str, float | None], names: Sequence[str]) -> list[float | None]:
    return [_percent(scores.get(f"IoU.{name}")) for name in names]


def _gallery(report: RunReport) -> Gallery | Note:
    if not report.gallery:
        return Note("no pictures were made")
    present: set[int] = set()
    for picture in report.gallery:
        for one in (picture.prediction, picture.label):
            present |= set() if one is None else set(np.unique(one).tolist())
    colors = enumerate(zip(report.class_names, report.palette, strict=True))
    return Gallery(
        [_sample(picture, report.palette) for picture in report.gallery],
        [Swatch(name, css_color(color)) for index, (name, color) in colors if index in present],
        "Error: wrong pixels in the color of the class they should have, right ones gray, unlabeled ones white.",
    )


def _sample(picture: Picture, palette: np.ndarray) -> Sample:
    prediction, truth = picture.prediction, picture.label
    painted = Tile("prediction", map_uri(colorize(prediction, palette)))
    if truth is None:
        return Sample(picture.name, photo_uri(picture.image), (painted,))
    is_labeled = truth != IGNORE
    right = float((prediction == truth)[is_labeled].mean()) if is_labeled.any() else None
    label = Tile("label", map_uri(colorize(truth, palette)))
    error = Tile("error", map_uri(error_map(prediction, truth, palette)))
    title = f"{picture.name} · {_percent_text(right)} % of the labeled pixels right"
    return Sample(title, photo_uri(picture.image), (label, painted, error))
