"""Inspection of a whole data set before it is trained on: counts, sizes, class histogram, faults, traps.

`CheckReport` is plain data, of which a table or a page is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from typing import NamedTuple

import numpy as np

from segcore.data.base import FileDataset, SegmentationDataset
from segcore.data.folder import FolderDataset
from segcore.data.labels import IGNORE
from segcore.data.read import DataFileError, FaultKind, read_pair
from segcore.data.traps import (
    SampleTrap,
    Suspicion,
    sample_suspicion,
    sample_traps,
    unused_classes,
    value_suspicion,
)
from segcore.opencv import cv2

MAX_LISTED = 20
"""Faulty files of each kind that are named; the others are counted."""
MAX_EXAMPLES = 6
"""Samples that are kept for each class."""


class _Finding(NamedTuple):
    """What one sample showed.

    counts (256,) int64 are the pixels of each train id, None without a usable label; values (V,) uint8 are those of
    the label file, also where it cannot be used; picture is a hash of the image's pixels.
    """

    name: str
    size: tuple[int, int] | None = None
    counts: np.ndarray | None = None
    values: np.ndarray | None = None
    picture: bytes | None = None
    traps: frozenset[SampleTrap] = frozenset()
    fault: DataFileError | None = None


@dataclass
class Faults:
    """All faults of one kind.

    Attributes:
        count: how many files.
        names, messages: samples and sentences of the first MAX_LISTED of them, in order.
    """

    count: int = 0
    names: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


class Example(NamedTuple):
    """A sample that shows a class well."""

    pixels: int
    name: str


@dataclass
class CheckReport:
    """What `check_dataset` found.

    Attributes:
        name: the data set.
        classes: class names.
        images: samples, faulty ones included.
        labels: labels that can be used, with their images.
        pixels: (K,) int64, labeled pixels of each class in them.
        images_with: (K,) int64, images in which each class occurs.
        examples: of each class, the MAX_EXAMPLES samples with most of its pixels, the most first.
        ignored: pixels with label 255.
        values: (256,) int64, masks in which each value occurs, faulty ones included.
        smallest, largest: (height, width) by area of the usable images; (0, 0) if there is none.
        faults: kind -> how many, and the first ones in order: files that cannot be used.
        trapped: kind -> samples that look as if something else was meant.
        suspicions: what `trapped` and all masks together say, each with its likely cause and what mends it.
        pictures: hash of the pixels -> name of the image, see `traps.shared_pictures`.
    """

    name: str
    classes: tuple[str, ...]
    images: int
    labels: int = 0
    pixels: np.ndarray = field(init=False)
    images_with: np.ndarray = field(init=False)
    examples: list[list[Example]] = field(init=False)
    ignored: int = 0
    values: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    smallest: tuple[int, int] = (0, 0)
    largest: tuple[int, int] = (0, 0)
    faults: dict[FaultKind, Faults] = field(default_factory=dict)
    trapped: dict[SampleTrap, list[str]] = field(default_factory=dict)
    suspicions: list[Suspicion] = field(default_factory=list)
    pictures: dict[bytes, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        num_classes = len(self.classes)
        self.pixels, self.images_with = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
        self.examples = [[] for _ in self.classes]

    @property
    def is_clean(self) -> bool:
        """Tell whether every file can be used."""
        return not self.faults

    def percent(self) -> np.ndarray:
        """Return each class's share of the labeled pixels, percent (K,) float64; zeros where nothing is labeled."""
        return 100 * self.pixels / max(int(self.pixels.sum()), 1)

    def add(self, finding: _Finding) -> None:
        """Count one sample."""
        if finding.values is not None:
            self.values[finding.values] += 1
        if finding.fault is not None:
            entry = self.faults.setdefault(finding.fault.kind, Faults())
            entry.count += 1
            if entry.count <= MAX_LISTED:
                entry.names.append(finding.name)
                entry.messages.append(str(finding.fault))
        if finding.counts is not None:
            self._add_label(finding.name, finding.counts)
        if finding.size is not None:
            areas = [(size[0] * size[1], size) for size in (self.smallest, self.largest, finding.size)]
            self.largest = max(areas)[1]
            self.smallest = min(area for area in areas if area[0] > 0)[1]
        if finding.picture is not None:
            self.pictures.setdefault(finding.picture, finding.name)
        for kind in finding.traps:
            self.trapped.setdefault(kind, []).append(finding.name)

    def _add_label(self, name: str, counts: np.ndarray) -> None:
        classes = counts[: len(self.classes)]
        self.labels += 1
        self.pixels += classes
        self.images_with += classes > 0
        self.ignored += int(counts[IGNORE])
        for number in np.flatnonzero(classes):
            best = [*self.examples[number], Example(int(classes[number]), name)]
            self.examples[number] = sorted(best, key=lambda example: -example.pixels)[:MAX_EXAMPLES]


def _histogram(label: np.ndarray) -> np.ndarray:
    # float32 bins are exact up to 2^24 pixels of one class in one image; larger images are counted in rows
    rows = max((1 << 24) // max(label.shape[1], 1), 1)
    parts = [label[start : start + rows] for start in range(0, label.shape[0], rows)]
    return sum(
        (cv2.calcHist([part], [0], None, [256], [0, 256]).ravel().astype(np.int64) for part in parts),
        start=np.zeros(256, np.int64),
    )


def _inspect(dataset: SegmentationDataset, index: int) -> _Finding:
    """Read one sample."""
    if isinstance(dataset, FileDataset):
        return _inspect_files(dataset, index)
    sample = dataset.load(index)
    counts = None if sample.label is None else _histogram(sample.label)
    return _Finding(sample.name, sample.image.shape[:2], counts, picture=_hash(sample.image))


def _inspect_files(dataset: FileDataset, index: int) -> _Finding:
    item = dataset.items[index]
    raw = label = values = None
    try:
        if item.label is not None:
            raw, label = dataset.decode_file(item.label)
            values = np.flatnonzero(_histogram(raw))
            dataset.check_values(item.label, raw, label)
        image = read_pair(item.image, label, item.label, dataset.max_pixels)
    except DataFileError as fault:
        return _Finding(item.name, values=values, fault=fault)
    counts = None if label is None else _histogram(label)
    traps = sample_traps(item, image, raw)
    return _Finding(item.name, image.shape[:2], counts, values, _hash(image), frozenset(traps))


def _hash(image: np.ndarray) -> bytes:
    result = blake2b(repr(image.shape).encode(), digest_size=16)
    result.update(np.ascontiguousarray(image).data)
    return result.digest()


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
    report.suspicions = _suspicions(report, dataset)
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


def _suspicions(report: CheckReport, dataset: SegmentationDataset) -> list[Suspicion]:
    found = [sample_suspicion(kind, names, report.images) for kind, names in sorted(report.trapped.items())]
    unusual = value_suspicion(dataset, report.values) if isinstance(dataset, FolderDataset) else None
    if unusual is not None:
        found.append(unusual)
    # values that are not read as meant leave classes empty: one cause, one finding
    if report.labels and (unusual is None or unusual.kind == "unlisted values"):
        unused = unused_classes(report.classes, report.images_with)
        found += [unused] if unused is not None else []
    return found
