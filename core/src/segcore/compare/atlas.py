"""Where compared heads err: images to look at, confused classes, boundaries, segment sizes; all from kept counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcore.compare.collect import ComparedHead, Comparison
from segcore.evaluation.image_counts import SIZE_NAMES

if TYPE_CHECKING:
    from segcore.data.base import Sample


class Confusion(NamedTuple):
    """Pixels of one class taken for another.

    Attributes:
        share: of the class's labeled pixels, fraction.
        of_all: of all labeled pixels, fraction.
    """

    head: str
    label: str
    taken_for: str
    share: float
    of_all: float


@dataclass(frozen=True)
class AtlasImage:
    """A test image with the predictions of every head's first run.

    Shapes:
        predictions: head -> (H, W) class numbers
    """

    sample: Sample
    predictions: dict[str, np.ndarray]
    reason: str


def image_accuracy(comparison: Comparison) -> NDArray[np.float64]:
    """Return the share of right pixels of every head and image, mean over the seeds: (heads, N); NaN without labels."""
    rows: list[NDArray[np.float64]] = []
    for head in comparison.heads:
        right, labeled = (
            np.sum([run.single.kind(name).sum(axis=1) for run in head.runs], axis=0)
            for name in ("intersection", "labeled")
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            rows.append(right / labeled)
    return np.stack(rows)


def chosen_images(comparison: Comparison, count: int) -> list[tuple[int, str]]:
    """Return the images that all heads do worst, and those on which they differ most, with the reason."""
    accuracy = image_accuracy(comparison)
    known = np.flatnonzero(~np.isnan(accuracy).any(axis=0))
    mean, spread = accuracy[:, known].mean(axis=0), np.ptp(accuracy[:, known], axis=0)
    worst = known[np.argsort(mean, kind="stable")[:count]].tolist()
    chosen = [(index, "hardest for all heads") for index in worst]
    if len(comparison.heads) > 1:
        order = known[np.argsort(-spread, kind="stable")]
        others = [int(index) for index in order if int(index) not in worst][:count]
        chosen += [(index, "heads differ most") for index in others]
    return chosen


def confusions(head: ComparedHead, count: int) -> list[Confusion]:
    """Return the pairs of classes that a head confuses most, by their share of all labeled pixels."""
    names = head.runs[0].single.class_names
    matrix = np.sum([run.single.matrix for run in head.runs], axis=0)[:, : len(names)].astype(np.float64)
    labeled = matrix.sum(axis=1)
    wrong = matrix - np.diag(np.diag(matrix))
    found: list[Confusion] = []
    for place in np.argsort(-wrong, axis=None, kind="stable")[:count]:
        row, column = divmod(int(place), len(names))
        if wrong[row, column] > 0:
            share, of_all = wrong[row, column] / labeled[row], wrong[row, column] / labeled.sum()
            found.append(Confusion(head.name, names[row], names[column], share, of_all))
    return found


def boundary_and_interior(head: ComparedHead) -> tuple[float | None, float | None]:
    """Return the share of right pixels near the outlines of the label, and away from them."""
    near, all_near, right, labeled = (
        sum(int(run.single.kind(name).sum(dtype=np.int64)) for run in head.runs)
        for name in ("boundary_right", "boundary_labeled", "intersection", "labeled")
    )
    return _share(near, all_near), _share(right - near, labeled - all_near)


def by_segment_size(head: ComparedHead) -> list[float | None]:
    """Return the share of right pixels in segments of each size."""
    right, total = np.sum([run.single.segments.sum(axis=0, dtype=np.int64) for run in head.runs], axis=0)
    return [_share(int(right[i]), int(total[i])) for i in range(len(SIZE_NAMES))]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def atlas_images(comparison: Comparison, chosen: Sequence[tuple[int, str]], root: str, device: str) -> list[AtlasImage]:
    """Predict the chosen images with every head's first run.

    Args:
        root: folder of the data set; empty is that of the runs.

    Raises:
        InputError: if the data or a checkpoint cannot be read.
    """
    from segcore.data import choose_test_split, create_dataset
    from segcore.predictor import Predictor  # loads torch
    from segcore.recipe import Data
    from segcore.recipe.plain import from_plain

    meta = comparison.heads[0].runs[0].meta
    data = from_plain(Data, meta.recipe["data"], "recipe: data")
    place = root or str(meta.recipe["run"]["data"])
    data, _ = choose_test_split(data, place)
    dataset = create_dataset(data, place, comparison.first.score.data.split, list_file=data.test_list)
    images = [AtlasImage(dataset.load(index), {}, reason) for index, reason in chosen]
    for head in comparison.heads:
        predictor = Predictor.from_checkpoint(head.runs[0].weights, device=device)
        for image in images:
            image.predictions[head.name] = predictor(image.sample.image).label
    return images
