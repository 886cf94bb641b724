"""The report as one self-contained HTML page: no script, no external file; light and dark, narrow and wide."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

import cv2
import numpy as np

from segcore.files import atomic_write, make_folder
from segcore.images.visualize import colorize, error_map
from segcore.report.charts import line_chart, short_number
from segcore.report.run_report import Picture, ReportSection, RunReport
from segcore.report.style import CSS

MAX_WIDTH = 512
"""Pictures are embedded at most this wide, pixels."""


def write_report(path: str | Path, report: RunReport) -> Path:
    """Write the page and return its path.

    Raises:
        InputError: if its folder cannot be made or written.
    """
    target = Path(path)
    make_folder(target.parent, "--out")
    with atomic_write(target) as file:
        file.write(render(report).encode())
    return target


def render(report: RunReport) -> str:
    """Return the page as HTML text; every name is escaped."""
    heading = f"{report.paper} {report.recipe_name}"
    sections = (
        f"<header><h1>{escape(heading)}</h1><p>{escape(report.title)}</p>{_facts(report)}</header>",
        f'<section class="cards">{_cards(report)}</section>',
        f"<section><h2>Training</h2>{_charts(report)}</section>",
        f"<section><h2>IoU per class</h2>{_class_bars(report)}</section>",
        f"<section><h2>Predictions</h2>{_gallery(report)}</section>",
        *(_section(section) for section in report.sections),
        f"<section><details><summary>Resolved recipe</summary><pre>{escape(report.recipe)}</pre></details></section>",
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(heading)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def _percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None or value != value else f"{100 * value:.{digits}f}"


def _facts(report: RunReport) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    facts = (report.dataset, f"{report.iterations} iterations", report.date, versions)
    return f'<p class="quiet">{" · ".join(escape(fact) for fact in facts if fact)}</p>'


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _cards(report: RunReport) -> str:
    published = report.published
    tested = f"{report.num_images} images tested" if report.num_images else report.scores_from
    cards = [
        (f"mIoU, {report.scores_from}", _percent(report.scores.get("mIoU")), "%", _published(published.miou)),
        ("mIoU, multi-scale + flip", _percent(report.scores_ms.get("mIoU")), "%", _published(published.miou_ms)),
        ("pixel accuracy", _percent(report.scores.get("aAcc")), "%", tested),
        ("parameters", f"{report.parameters / 1e6:.2f}", "M", _published(published.params)),
    ]
    if report.seconds:
        cards.append(("training", _duration(report.seconds), "", "validation not counted"))
    if not report.scores_ms:
        cards.pop(1)
    return "".join(
        f'<div class="card"><span>{escape(name)}</span><b>{escape(value)}<i>{unit}</i></b><em>{escape(note)}</em></div>'
        for name, value, unit, note in cards
    )


def _published(value: float | None) -> str:
    return f"published {value:g}" if value is not None else ""


def _charts(report: RunReport) -> str:
    published = report.published.miou
    charts = (
        line_chart(report.losses, title="Training loss", unit="loss", smooth=True),
        line_chart(
            report.mious,
            title="Validation mIoU",
            unit="%",
            format_value=lambda value: f"{100 * value:.3g}",
            reference=("published", published / 100) if published is not None else None,
        ),
        line_chart(report.rates, title="Learning rate", unit="learning rate", format_value=short_number),
    )
    return f'<div class="charts">{"".join(charts)}</div>'


def _class_bars(report: RunReport) -> str:
    """One bar per class in the order of the classes; a tick marks the multi-scale + flip result."""
    rows: list[str] = []
    for name, color in zip(report.class_names, report.palette.tolist(), strict=True):
        iou, iou_ms = report.scores.get(f"IoU.{name}"), report.scores_ms.get(f"IoU.{name}")
        rows.append(
            f'<div class="row"><span class="name" title="{escape(name)}">{escape(name)}</span>'
            f'<span class="track">{_bar(iou, color)}{_tick(iou_ms)}</span>'
            f'<span class="value">{_percent(iou, 1)}</span></div>'
        )
    note = f"Percent, {report.scores_from}" + ("; the tick marks multi-scale + flip." if report.scores_ms else ".")
    return f'<p class="quiet">{escape(note)}</p><div class="bars">{"".join(rows)}</div>'


def _bar(value: float | None, color: list[int]) -> str:
    width = 0.0 if value is None or value != value else 100 * value
    return f'<span class="bar" style="width:{width:.2f}%;background:{_css_color(color)}"></span>'


def _tick(value: float | None) -> str:
    return "" if value is None or value != value else f'<span class="tick" style="left:{100 * value:.2f}%"></span>'


def _css_color(color: list[int]) -> str:
    return "#" + "".join(f"{int(value):02x}" for value in color)


def _gallery(report: RunReport) -> str:
    if not report.gallery:
        return '<p class="quiet">no pictures were made</p>'
    present: set[int] = set()
    rows: list[str] = []
    for picture in report.gallery:
        maps = [picture.prediction] if picture.label is None else [picture.prediction, picture.label]
        present |= {int(value) for one in maps for value in np.unique(one)}
        rows.append(_gallery_row(picture, report.palette))
    chips = "".join(
        f'<span class="chip"><i style="background:{_css_color(color)}"></i>{escape(name)}</span>'
        for number, (name, color) in enumerate(zip(report.class_names, report.palette.tolist(), strict=True))
        if number in present
    )
    note = (
        "Error: wrong pixels in the color of the class they should have, right ones gray, pixels without a label white."
    )
    return f'<div class="legend">{chips}</div><p class="quiet">{note}</p>{"".join(rows)}'


def _section(section: ReportSection) -> str:
    source = f"data:image/png;base64,{base64.b64encode(section.picture).decode()}"
    return (
        f'<section><h2>{escape(section.title)}</h2><p class="quiet">{escape(section.text)}</p>'
        f'<div class="sample"><img alt="{escape(section.title)}" src="{source}"></div></section>'
    )


def _gallery_row(picture: Picture, palette: np.ndarray) -> str:
    prediction, label = picture.prediction, picture.label
    cells = [("image", _embed(picture.image, ".jpg"))]
    caption = picture.name
    if label is not None:
        cells.append(("label", _embed(colorize(label, palette), ".png")))
        is_labeled = label != 255
        right = float((prediction == label)[is_labeled].mean()) if is_labeled.any() else None
        caption += f" · {_percent(right, 1)} % of the labeled pixels right"
    cells.append(("prediction", _embed(colorize(prediction, palette), ".png")))
    if label is not None:
        cells.append(("error", _embed(error_map(prediction, label, palette), ".png")))
    pictures = "".join(
        f'<figure><img alt="{kind} of {escape(picture.name)}" src="{source}"><figcaption>{kind}</figcaption></figure>'
        for kind, source in cells
    )
    return f'<div class="sample"><h3>{escape(caption)}</h3><div class="four">{pictures}</div></div>'


def _embed(image: np.ndarray, suffix: str) -> str:
    """Return a data URI of a BGR image, at most MAX_WIDTH wide; label maps (.png) keep their exact colors."""
    height, width = image.shape[:2]
    if width > MAX_WIDTH:
        size = (MAX_WIDTH, max(round(height * MAX_WIDTH / width), 1))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if suffix == ".jpg" else cv2.INTER_NEAREST)
    options = [cv2.IMWRITE_JPEG_QUALITY, 88] if suffix == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 9]
    data = cv2.imencode(suffix, image, options)[1].tobytes()
    kind = "jpeg" if suffix == ".jpg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
