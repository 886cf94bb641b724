"""Inspection of a whole data set before it is trained on: counts, sizes, class histogram, faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from segcore.data.base import SegmentationDataset
from segcore.data.labels import IGNORE
from segcore.data.read import DataFileError, FaultKind
from segcore.opencv import cv2

MAX_LISTED = 20
"""Faulty files of each kind that are named; the others are counted."""
_BAR = 16  # characters of the longest bar


class _Finding(NamedTuple):
    """What one sample showed; counts (256,) int64 are the pixels of each train id, None without a readable label."""

    size: tuple[int, int] | None
    counts: np.ndarray | None
    fault: DataFileError | None


@dataclass
class Faults:
    """All faults of one kind.

    Attributes:
        count: how many files.
        messages: the sentences about the first MAX_LISTED of them, in order.
    """

    count: int = 0
    messages: list[str] = field(default_factory=list)


@dataclass
class CheckReport:
    """What `check_dataset` found.

    Attributes:
        name: the data set.
        classes: class names.
        images: samples, faulty ones included.
        labels: readable labels without a fault.
        pixels: (K,) int64, labeled pixels of each class.
        images_with: (K,) int64, images in which each class occurs.
        ignored: pixels with label 255.
        smallest, largest: (height, width) by area of the readable images; (0, 0) if there is none.
        faults: kind -> how many, and the first ones in order.
    """

    name: str
    classes: tuple[str, ...]
    images: int
    labels: int = 0
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    images_with: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    ignored: int = 0
    smallest: tuple[int, int] = (0, 0)
    largest: tuple[int, int] = (0, 0)
    faults: dict[FaultKind, Faults] = field(default_factory=dict)

    def __post_init__(self) -> None:
        num_classes = len(self.classes)
        self.pixels, self.images_with = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)

    @property
    def is_clean(self) -> bool:
        """Tell whether every file can be used."""
        return not self.faults

    def percent(self) -> np.ndarray:
        """Return each class's share of the labeled pixels, percent (K,) float64; zeros where nothing is labeled."""
        return 100 * self.pixels / max(int(self.pixels.sum()), 1)

    def add(self, finding: _Finding) -> None:
        """Count one sample."""
        if finding.fault is not None:
            entry = self.faults.setdefault(finding.fault.kind, Faults())
            entry.count += 1
            if entry.count <= MAX_LISTED:
                entry.messages.append(str(finding.fault))
        if finding.counts is not None:
            counts = finding.counts[: len(self.classes)]
            self.labels += 1
            self.pixels += counts
            self.images_with += counts > 0
            self.ignored += int(finding.counts[IGNORE])
        if finding.size is not None:
            areas = [(size[0] * size[1], size) for size in (self.smallest, self.largest, finding.size)]
            self.largest = max(areas)[1]
            self.smallest = min(area for area in areas if area[0] > 0)[1]


def _histogram(label: np.ndarray) -> np.ndarray:
    # float32 bins are exact up to 2^24 pixels of one class in one image; larger images are counted in rows
    rows = max((1 << 24) // max(label.shape[1], 1), 1)
    parts = [label[start : start + rows] for start in range(0, label.shape[0], rows)]
    return sum(
        (cv2.calcHist([part], [0], None, [256], [0, 256]).ravel().astype(np.int64) for part in parts),
        start=np.zeros(256, np.int64),
    )


def _inspect(dataset: SegmentationDataset, index: int) -> _Finding:
    """Read one sample; a broken image still leaves its label to be counted."""
    try:
        sample = dataset.load(index)
    except DataFileError as fault:
        counts = None
        if fault.kind in ("unreadable image", "size mismatch"):
            counts = _label_counts(dataset, index)
        return _Finding(None, counts, fault)
    counts = None if sample.label is None else _histogram(sample.label)
    return _Finding((sample.image.shape[0], sample.image.shape[1]), counts, None)


def _label_counts(dataset: SegmentationDataset, index: int) -> np.ndarray | None:
    if dataset.files(index)[1] is None:
        return None
    try:
        return _histogram(dataset.load_label(index))
    except DataFileError:  # its image is already reported
        return None


def check_dataset(
    dataset: SegmentationDataset, *, workers: int = 4, progress: Callable[[], None] | None = None
) -> CheckReport:
    """Read every file of a data set and go on after those that cannot be used.

    Args:
        workers: threads; decoding releases the interpreter.
        progress: called after each sample.
    """
    report = CheckReport(dataset.name, dataset.classes.names, len(dataset))
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for finding in _in_order(pool, dataset, 4 * max(workers, 1)):
            report.add(finding)
            if progress is not None:
                progress()
    return report


def _in_order(pool: ThreadPoolExecutor, dataset: SegmentationDataset, ahead: int) -> Iterator[_Finding]:
    """Yield the findings by index; only a few samples are under way, so memory does not grow with the data set."""
    indices = iter(range(len(dataset)))
    pending = [pool.submit(_inspect, dataset, index) for index in islice(indices, ahead)]
    while pending:
        finding = pending.pop(0).result()
        for index in islice(indices, 1):
            pending.append(pool.submit(_inspect, dataset, index))
        yield finding


def render(report: CheckReport, title: str) -> RenderableType:
    """Return the report as a table of classes with the faults below it, for a rich console."""
    table = Table(title=title, title_justify="left")
    for heading, justify in (("class", "left"), ("name", "left"), ("images", "right"), ("pixels", "right")):
        table.add_column(heading, justify=justify)  # pyright: ignore[reportArgumentType]
    table.add_column("percent", justify="right")
    table.add_column("histogram")
    percent = report.percent()
    for i, (name, share) in enumerate(zip(report.classes, percent, strict=True)):
        bar = "█" * round(_BAR * share / max(percent.max(), 1e-9))
        table.add_row(str(i), Text(name), f"{report.images_with[i]}", f"{report.pixels[i]}", f"{share:.3f}", bar)
    total = max(int(report.pixels.sum()) + report.ignored, 1)
    table.add_section()
    table.add_row("255", "ignored", "", f"{report.ignored}", f"({100 * report.ignored / total:.3f} of all)")
    sizes = f"{_size(report.smallest)} to {_size(report.largest)}"
    lines = [Text(f"{report.images} images ({sizes}, width x height), {report.labels} usable labels")]
    for kind, faults in report.faults.items():
        lines.append(Text(f"{faults.count} x {kind}:"))
        lines += [Text(f"  {message}") for message in faults.messages]
        if faults.count > len(faults.messages):
            lines.append(Text(f"  and {faults.count - len(faults.messages)} more"))
    if report.is_clean:
        lines.append(Text("no faults"))
    return Group(table, *lines)


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
