"""What far pixels are worth: IoU of each class as a function of the radius that a pixel may see.

For a pixel and a radius, everything farther away is replaced by the mean color, and the network says the class of that
pixel alone. A head that uses no context stays flat beyond its field; one that does rises as far as context reaches.
Pixels are sampled evenly over the classes, so the numbers compare with each other and not with the mIoU of a test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from plotly.graph_objects import Figure
from torch import Tensor, nn

from segcore.compare.results import csv_text
from segcore.data.base import SegmentationDataset
from segcore.errors import check
from segcore.evaluation.evaluate import evenly_spaced
from segcore.evaluation.inference import logit_map, network_input, views
from segcore.pages import charts
from segcore.pages.charts import Series
from segcore.pages.page import Cell, Chart, Column, Note, Page, Row, Section, Table, number
from segcore.recipe import Evaluate

_LOGITS = 1 << 25  # values held at once
_CHARTS = 12
"""Classes with a chart of their own: those that gain most."""


class Probe(NamedTuple):
    """A labeled pixel: index of its image, row, column, class."""

    image: int
    row: int
    column: int
    label: int


@dataclass(frozen=True)
class ContextCurve:
    """What a network makes of the pixels.

    Shapes:
        radii R, pixels of the original image; the last is infinite. iou (R, K), NaN for classes without pixels
    """

    name: str
    radii: tuple[float, ...]
    iou: NDArray[np.float64]

    def mean(self) -> NDArray[np.float64]:
        """Return the mean over the classes: (R,)."""
        return np.nanmean(self.iou, axis=1)


def sample_pixels(dataset: SegmentationDataset, per_class: int, *, images: int = 0, seed: int = 0) -> list[Probe]:
    """Return up to `per_class` pixels of every class, spread over the images, in the order of the images.

    Args:
        images: look at so many images, spread over the data set; 0 takes all.

    Raises:
        InputError: if an image has no label, or none has a labeled pixel.
    """
    generator = np.random.default_rng(seed)
    num_classes = len(dataset.classes.names)
    found: list[list[Probe]] = [[] for _ in range(num_classes)]
    indices = evenly_spaced(len(dataset), images or len(dataset))
    for index in indices:
        label = dataset.load_label(index)
        order = np.argsort(label, axis=None, kind="stable")
        starts = np.searchsorted(label.ravel()[order], np.arange(num_classes + 1))
        for k in range(num_classes):
            places = order[starts[k] : starts[k + 1]]
            # enough of each image that one alone could give them all
            for place in generator.choice(places, min(per_class, len(places)), replace=False) if len(places) else ():
                found[k].append(Probe(index, *divmod(int(place), label.shape[1]), k))
    chosen = [
        probes[place]
        for probes in found
        for place in generator.choice(len(probes), min(per_class, len(probes)), replace=False)
    ]
    check(len(chosen) > 0, f"{dataset.name}: no image has a labeled pixel")
    return sorted(chosen)


@torch.inference_mode()
def context_curve(
    name: str, model: nn.Module, protocol: Evaluate, dataset: SegmentationDataset, probes: Sequence[Probe],
    radii: Sequence[float], device: torch.device,
) -> ContextCurve:  # fmt: skip
    """Ask a network for the class of each pixel at each radius; the last one asked for is the whole image.

    Args:
        model: in evaluation mode, on `device`.
        protocol: how its images are resized and cut into windows; one scale is used.
        radii: pixels of the original image, ascending, all finite.
    """
    single = replace(protocol, ratios=(1.0,), flip=False)
    every = (*radii, math.inf)
    num_classes = len(dataset.classes.names)
    pairs = np.zeros((len(every), num_classes, num_classes), np.int64)  # label, prediction
    for index, of_image in groupby(probes, lambda probe: probe.image):
        image = dataset.load(index).image
        for probe in of_image:
            answers = _answers(model, single, image, probe, every, device)
            for place, answer in enumerate(answers):
                pairs[place, probe.label, answer] += 1
    hit = np.diagonal(pairs, axis1=1, axis2=2)
    union = pairs.sum(axis=1) + pairs.sum(axis=2) - hit
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(pairs.sum(axis=2) > 0, hit / union, np.nan)
    return ContextCurve(name, every, iou)


def _answers(
    model: nn.Module, protocol: Evaluate, image: np.ndarray, probe: Probe, radii: Sequence[float], device: torch.device
) -> list[int]:
    """Return the class that the network gives one pixel at each radius."""
    (view,) = views(image, protocol)
    seen, valid = network_input(view, protocol, device)  # 0 is the mean color
    visible = torch.stack([_disc(probe, radius, image.shape[:2], valid, device) for radius in radii])
    batch = nn.functional.pad(visible, (0, seen.shape[-1] - valid[1], 0, seen.shape[-2] - valid[0])) * seen
    row = min(int((probe.row + 0.5) * valid[0] / image.shape[0]), valid[0] - 1)
    column = min(int((probe.column + 0.5) * valid[1] / image.shape[1]), valid[1] - 1)
    step = max(_LOGITS // (seen.shape[-1] * seen.shape[-2] * 32), 1)
    answers: list[int] = []
    for part in batch.split(step):
        logits = logit_map(model, part, replace(protocol, family="M"), valid).full()
        answers += logits[:, :, row, column].argmax(dim=1).tolist()
    return answers


def _disc(probe: Probe, radius: float, size: tuple[int, int], valid: tuple[int, int], device: torch.device) -> Tensor:
    """Return 1 where a pixel may see, at the size of the network's input: (1, h, w)."""
    rows, columns = (
        (torch.arange(length, device=device) + 0.5) * (full / length) - 0.5
        for full, length in zip(size, valid, strict=True)
    )
    distance = torch.hypot(rows[:, None] - probe.row, columns[None] - probe.column)
    return (distance <= radius).float()[None]


def context_page(curves: Sequence[ContextCurve], class_names: Sequence[str], facts: Sequence[str]) -> Page:
    """Return the page of several networks' curves."""
    gain = np.nanmax([curve.iou[-1] - curve.iou[0] for curve in curves], axis=0)
    order = [int(k) for k in np.argsort(-np.nan_to_num(gain, nan=-2.0)) if not np.isnan(gain[k])]
    radii = curves[0].radii
    columns = [Column("class"), Column("head"), *(Column(_radius(radius), True) for radius in radii)]
    rows = [
        [Cell(class_names[k]), Cell(curve.name), *(number(100 * value, 1) for value in curve.iou[:, k])]
        for k in order
        for curve in curves
    ]
    note = (
        "IoU over pixels sampled evenly over the classes; everything farther from the pixel than the radius is the "
        "mean color. The last point sees the whole image."
    )
    per_class = [Chart(class_names[k], _chart(curves, [curve.iou[:, k] for curve in curves])) for k in order[:_CHARTS]]
    return Page(
        title="Does context help?",
        subtitle="IoU as a function of the radius that a pixel may see",
        facts=facts,
        headline=(),
        sections=(
            Section("Mean over classes", (Note(note), Chart("Mean IoU", _chart(curves, [c.mean() for c in curves])))),
            Section("Classes, largest gain first", (Row(per_class), Table("IoU of each class, %", columns, rows))),
        ),
    )


def _chart(curves: Sequence[ContextCurve], values: Sequence[NDArray[np.float64]]) -> Figure:
    places = _places(curves[0].radii)
    series = [
        Series(curve.name, [(x, 100 * y) for x, y in zip(places, of_curve.tolist(), strict=True) if np.isfinite(y)])
        for curve, of_curve in zip(curves, values, strict=True)
    ]
    return charts.lines(series, x_title="radius, pixels; the last is the whole image", unit="IoU, %")


def _places(radii: Sequence[float]) -> list[float]:
    """Return where the radii are drawn: the infinite one a step beyond the last."""
    finite = list(radii[:-1])
    return [*finite, 1.25 * finite[-1] if finite else 1.0]


def _radius(radius: float) -> str:
    return "whole image" if math.isinf(radius) else f"{radius:g} px"


def context_csv(curves: Sequence[ContextCurve], class_names: Sequence[str]) -> str:
    """Return the curves as CSV, percent."""
    rows = [
        [curve.name, class_names[k], _radius(radius), None if np.isnan(value) else 100 * float(value)]
        for curve in curves
        for radius, values in zip(curve.radii, curve.iou, strict=True)
        for k, value in enumerate(values)
    ]
    return csv_text(("head", "class", "radius", "IoU"), rows)
