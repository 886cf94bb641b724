"""The page of `segcore data check --page`: class histogram, examples of each class, files that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from segcore.data.base import ClassTable, FileDataset, SegmentationDataset
from segcore.data.check import CheckReport, Faults
from segcore.data.labels import IGNORE
from segcore.data.traps import Suspicion
from segcore.images.visualize import colorize
from segcore.opencv import cv2
from segcore.pages import charts
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

_EXAMPLES = 60
"""Pictures of a split at most, but one of each class."""
_EACH = 3
"""Examples of a class at most."""
_WIDTH = 320
"""Pixels of a picture; the page holds many."""


class CheckedSplit(NamedTuple):
    """A split that was checked."""

    name: str
    report: CheckReport
    dataset: SegmentationDataset


def check_page(splits: Sequence[CheckedSplit], shared: Sequence[Suspicion], root: str) -> Page:
    """Return the page of a data set.

    Args:
        shared: what the splits have in common and should not.
        root: folder of the data set.
    """
    title = splits[0].report.name
    sections = [section for split in splits for section in _sections(split)]
    if shared:
        sections.insert(0, Section("Between splits", [Note(one.message) for one in shared]))
    counts = [f"{split.name}: {split.report.images} images" for split in splits]
    return Page(f"Data set {title}", root, counts, (_cards(splits, shared),), sections)


def _cards(splits: Sequence[CheckedSplit], shared: Sequence[Suspicion]) -> Cards:
    reports = [split.report for split in splits]
    faulty = sum(faults.count for report in reports for faults in report.faults.values())
    suspicious = sum(len(report.suspicions) for report in reports) + len(shared)
    return Cards(
        (
            Card("images", str(sum(report.images for report in reports))),
            Card("usable labels", str(sum(report.labels for report in reports))),
            Card("classes", str(len(reports[0].classes))),
            Card("files that cannot be used", str(faulty)),
            Card("probably not meant", str(suspicious)),
        )
    )


def _sections(split: CheckedSplit) -> Iterator[Section]:
    report, palette = split.report, split.dataset.classes.palette
    sizes = " to ".join(f"{width}x{height}" for height, width in (report.smallest, report.largest))
    findings: list[Part] = [Note(f"{sizes} (width x height), {report.labels} usable labels.")]
    findings += [Note(f"{one.kind}: {one.message}") for one in report.suspicions]
    findings += [_faults(kind, faults) for kind, faults in report.faults.items()]
    if not report.faults and not report.suspicions:
        findings.append(Note("No faults."))
    yield Section(f"{split.name}: findings", findings)
    yield Section(f"{split.name}: classes", [_histogram(report, palette)])
    gallery = _examples(split)
    if gallery is not None:
        yield Section(f"{split.name}: examples of each class", [gallery])


def _faults(kind: str, faults: Faults) -> Listing:
    hidden = faults.count - len(faults.messages)
    more = [f"and {hidden} more"] if hidden else []
    return Listing(f"{faults.count} x {kind}", "\n".join([*faults.messages, *more]))


def _histogram(report: CheckReport, palette: np.ndarray) -> Row:
    colors, percent = [css_color(color) for color in palette], report.percent().tolist()
    bars = charts.class_bars(report.classes, percent, colors, name="of the labeled pixels", unit="%")
    columns = (Column("class"), Column("images", True), Column("pixels", True), Column("percent", True))
    rows = [
        [Cell(name, color=color), number(float(images), 0), number(float(pixels), 0), number(share, 3)]
        for name, color, images, pixels, share in zip(
            report.classes, colors, report.images_with.tolist(), report.pixels.tolist(), percent, strict=True
        )
    ]
    return Row((Chart("Share of the labeled pixels", bars), Table("Classes", columns, rows)))


def _examples(split: CheckedSplit) -> Gallery | None:
    """Return the pictures with most pixels of each class; none of data that are no files."""
    if not isinstance(split.dataset, FileDataset):
        return None
    dataset, report = split.dataset, split.report
    index = {item.name: i for i, item in enumerate(dataset.items)}
    each = int(np.clip(_EXAMPLES // max(len(report.classes), 1), 1, _EACH))
    samples: list[Sample] = []
    for place, examples in enumerate(report.examples):
        for example in examples[:each]:
            loaded = dataset.load(index[example.name])
            assert loaded.label is not None
            title = f"{report.classes[place]}: {100 * example.pixels / loaded.label.size:.1f} % of {example.name}"
            samples.append(_sample(title, loaded.image, loaded.label, place, dataset.classes))
    legend = [Swatch(name, css_color(c)) for name, c in zip(report.classes, dataset.classes.palette, strict=True)]
    note = f"Of each class, the pictures with most of its pixels ({each} at most)."
    return Gallery(samples, legend, note) if samples else None


def _sample(title: str, image: np.ndarray, label: np.ndarray, place: int, classes: ClassTable) -> Sample:
    """Return a picture with the class at a place of the table, alone and among all."""
    factor = min(_WIDTH / label.shape[1], 1.0)
    size = (max(round(label.shape[1] * factor), 1), max(round(label.shape[0] * factor), 1))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
    alone = np.where(label == place, label, IGNORE)
    layers = (
        Tile(classes.names[place], map_uri(colorize(alone, classes.palette))),
        Tile("all classes", map_uri(colorize(label, classes.palette))),
    )
    return Sample(title, photo_uri(image), layers)
