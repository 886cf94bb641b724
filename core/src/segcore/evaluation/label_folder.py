"""Scores of predicted label maps on disk: a folder of PNG files against the labels of a data set, matched by stem.

Also the class and category scores of the Cityscapes benchmark. Nothing is kept per image.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from segcore.data.base import FileDataset
from segcore.data.labels import IGNORE
from segcore.data.listing import find_files
from segcore.data.read import read_label
from segcore.errors import InputError
from segcore.evaluation.metrics import ConfusionMatrix, Scores
from segcore.images.label_files import decode_submission

Encoding = Literal["train-ids", "submission"]
_CHUNK = 16  # images per task

CITYSCAPES_CATEGORIES = {
    "flat": ("road", "sidewalk"),
    "construction": ("building", "wall", "fence"),
    "object": ("pole", "traffic light", "traffic sign"),
    "nature": ("vegetation", "terrain"),
    "sky": ("sky",),
    "human": ("person", "rider"),
    "vehicle": ("car", "truck", "bus", "train", "motorcycle", "bicycle"),
}
"""Categories of the benchmark and their classes."""


def match_predictions(folder: Path, names: list[str]) -> list[Path]:
    """Return the PNG file of every sample, searched in a folder and all folders below.

    A file belongs to a sample if its path in the folder is the sample's name, or else if its stem is the last part of
    that name. Files of other images are left aside: predictions made in parts may lie in one folder or in several.

    Args:
        names: of the samples, relative paths without suffix.

    Raises:
        InputError: if a sample has no prediction, or two files claim the same one.
    """
    if not folder.is_dir():
        raise InputError(f"the folder {folder} does not exist; expected predicted label maps (STEM.png) in it")
    paths = find_files(folder, [".png"])
    by_stem: dict[str, list[str]] = {}
    for path in paths:
        by_stem.setdefault(Path(path).stem, []).append(path)
    exact = set(paths)
    matched: list[Path] = []
    missing: list[str] = []
    for name in names:
        candidates = [f"{name}.png"] if f"{name}.png" in exact else by_stem.get(name.rsplit("/", 1)[-1], [])
        if len(candidates) > 1:
            raise InputError(f"{folder} holds two predictions of {name}: {candidates[0]} and {candidates[1]}; keep one")
        if candidates:
            matched.append(folder / candidates[0])
        else:
            missing.append(name)
    if missing:
        first = f"{missing[0].rsplit('/', 1)[-1]}.png"
        raise InputError(
            f"{folder}: {len(missing)} of {len(names)} images have no prediction, the first is {first}; predict them, "
            "or name those to score with --list"
        )
    return matched


def read_prediction(path: Path, dataset: FileDataset, size: tuple[int, int], encoding: Encoding) -> np.ndarray:
    """Return a predicted label map (H, W) uint8 of train ids; 255 is no class and counts as wrong.

    Args:
        size: height and width of its label.
        encoding: train-ids, or the values that the data set's test server wants.

    Raises:
        InputError: if the file is unusable, has another size or holds values that are no class.
    """
    values = read_label(path)
    if values.shape != size:
        sizes = f"{values.shape[1]}x{values.shape[0]}, its label is {size[1]}x{size[0]}"
        raise InputError(f"the prediction {path} is {sizes} (width x height); they must be equal")
    if encoding == "submission":
        return decode_submission(dataset.name, values)
    num_classes = len(dataset.classes.names)
    outside = np.unique(values[(values >= num_classes) & (values != IGNORE)])
    if len(outside):
        hint = "if the files are in the encoding of a test server, pass --encoding submission"
        raise InputError(
            f"the prediction {path} holds the value {outside[0]}, outside the {num_classes} classes of {dataset.name}; "
            f"{hint}"
        )
    return values


def count_predictions(
    folder: Path,
    dataset: FileDataset,
    *,
    encoding: Encoding = "train-ids",
    workers: int = 4,
    progress: Callable[[int], None] | None = None,
) -> ConfusionMatrix:
    """Count the predictions in a folder against the labels of a data set.

    Args:
        workers: threads; decoding releases the interpreter.
        progress: called with the number of images just counted.

    Raises:
        InputError: see `match_predictions` and `read_prediction`; also for unusable labels or a split without any.
    """
    files = match_predictions(folder, [item.name for item in dataset.items])
    names = dataset.classes.names

    def count(indices: range) -> ConfusionMatrix:
        part = ConfusionMatrix(len(names), names=names)
        for index in indices:
            label = dataset.load_label(index)
            size = (label.shape[0], label.shape[1])
            prediction = read_prediction(files[index], dataset, size, encoding)
            part.update(torch.from_numpy(prediction.copy()), torch.from_numpy(label.copy()))
        return part

    total = ConfusionMatrix(len(names), names=names)
    tasks = [range(start, min(start + _CHUNK, len(files))) for start in range(0, len(files), _CHUNK)]
    pool = ThreadPoolExecutor(max(workers, 1))
    try:
        for task, part in zip(tasks, pool.map(count, tasks), strict=True):
            total.matrix += part.matrix
            if progress is not None:
                progress(len(task))
    finally:
        pool.shutdown(cancel_futures=True)
    return total


def cityscapes_summary(scores: Scores) -> dict[str, float]:
    """Return the scores that the Cityscapes tools print, as fractions: both averages and every category's IoU.

    Predictions of the 19 train ids scored on ignored-free labels give the same numbers as label ids scored by those
    tools; the instance-weighted scores need instance maps and are not here.
    """
    names = list(scores.names)
    counts = scores.counts[: len(names)].astype(np.float64)  # label x prediction, (K, K + 1)
    result = {"averageScoreClasses": scores.miou}
    categories: dict[str, float] = {}
    for category, classes in CITYSCAPES_CATEGORIES.items():
        own = [names.index(name) for name in classes]
        hits = counts[np.ix_(own, own)].sum()
        union = counts[own].sum() + counts[:, own].sum() - hits
        categories[category] = float(hits / union) if union else float("nan")
    defined = [value for value in categories.values() if not np.isnan(value)]
    result["averageScoreCategories"] = float(np.mean(defined)) if defined else float("nan")
    return result | {f"IoU.{category}": value for category, value in categories.items()}
