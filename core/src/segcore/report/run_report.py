"""What a report shows, as plain data, and how it is read from a work directory."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from segcore.data import choose_test_split
from segcore.errors import InputError
from segcore.evaluation.score_files import ScoredImages, ScoreFile, file_hash, read_scores
from segcore.opencv import cv2
from segcore.pages.charts import Series
from segcore.pages.page import Section
from segcore.paper import Paper
from segcore.recipe import Data, Evaluate, Published, Run
from segcore.recipe.file import FILE_NAME, RecipeFile, read_recipe_file
from segcore.recipe.plain import from_plain
from segcore.training.run_folder import read_log, training_seconds
from segcore.weights.files import read_checkpoint
from segcore.weights.header import CheckpointMeta, find_weights

GALLERY = "gallery"
"""Folder of a work directory with "NUMBER NAME.image.png", .label.png (where labeled) and .prediction.png."""
Part = TypeVar("Part", Data, Evaluate, Published, Run)
log = logging.getLogger(__name__)
_YEAR_9999 = 250_000_000_000  # seconds, where the calendar of Python ends
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # tensors of a file that are not parameters


@dataclass(frozen=True)
class Picture:
    """One image of the gallery.

    Shapes:
        image (H, W, 3) uint8 BGR; label, prediction (H, W) uint8, 255 = ignore; label None where there is none
    """

    name: str
    image: np.ndarray
    label: np.ndarray | None
    prediction: np.ndarray


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """Everything on the page. Scores are fractions, published figures percent as in the papers."""

    title: str
    """Name and reference of the paper."""
    paper: str
    recipe_name: str
    dataset: str
    date: str
    versions: Mapping[str, str]
    class_names: Sequence[str]
    palette: np.ndarray
    """(K, 3) uint8 RGB."""
    scores: Mapping[str, float | None]
    """Single scale, by the reference's keys: mIoU, aAcc, mAcc, IoU.<class>; None where a class is absent."""
    scores_from: str
    """What `scores` are of: a test at single scale, or the last validation where none was made."""
    scores_ms: Mapping[str, float | None]
    """Multi-scale + flip, the same keys; empty if not tested."""
    published: Published
    iterations: int
    num_images: int
    """Images tested, 0 if not known."""
    parameters: int
    seconds: float
    """Training time without validation."""
    losses: tuple[Series, ...]
    mious: tuple[Series, ...]
    rates: tuple[Series, ...]
    gallery: tuple[Picture, ...]
    recipe: str
    """The resolved recipe as JSON text."""
    sections: tuple[Section, ...] = ()
    """The paper's own."""


def collect(work_dir: str | Path, papers: Mapping[str, Paper], *, data_root: str = "", split: str = "") -> RunReport:
    """Read a work directory: recipe.json, log.jsonl, the best weights and their scores, gallery/.

    Args:
        papers: the installed ones; a run of another is shown without its title and its own sections.
        data_root: folder of the data set, the recipe's where empty.
        split: whose scores are shown; the recipe's test split where empty.

    Raises:
        InputError: if it holds no run, or no finished one.
    """
    folder = Path(work_dir)
    document = read_recipe_file(folder / FILE_NAME)
    lines = read_log(folder / "log.jsonl")
    weights = find_weights(folder)
    loaded = read_checkpoint(weights)
    meta = loaded.meta
    if meta is None:
        raise InputError(f"{weights} does not say its recipe; a file written by <paper>-train is expected")
    paper = papers.get(document.paper)
    data, evaluate = _part(document, Data, folder), _part(document, Evaluate, folder)
    root = data_root or _part(document, Run, folder).data
    data, note = tested_data(data, root, split)
    if note:
        log.warning("%s", note)
    images = ScoredImages.of(data, root)
    single, multi = _scores(weights, images, (evaluate, evaluate.with_augmentation()))
    return RunReport(
        title=paper.title if paper else document.paper,
        paper=document.paper,
        recipe_name=document.name,
        dataset=f"{data.dataset} ({data.test_split if single or multi else data.val_split})",
        date=_date(lines),
        versions=document.versions,
        class_names=meta.classes,
        palette=np.asarray(meta.palette, np.uint8),
        scores=single.metric if single else _last_scores(lines, meta),
        scores_from=evaluate.words if single else f"last validation ({data.val_split})",
        scores_ms=multi.metric if multi else {},
        published=_part(document, Published, folder),
        iterations=max((line["iteration"] for line in lines), default=meta.iteration),
        num_images=single.images if single else 0,
        parameters=sum(t.numel() for name, t in loaded.tensors.items() if not name.endswith(_STATISTICS)),
        seconds=training_seconds(lines, data.batch),
        losses=(Series("loss", _points(lines, "train", "loss")),),
        mious=(Series("mIoU", _points(lines, "val", "mIoU")),),
        rates=(Series("learning rate", _points(lines, "train", "lr")),),
        gallery=read_gallery(folder / GALLERY),
        recipe=json.dumps(document.recipe, indent=1),
        sections=paper.report(loaded) if paper and paper.report else (),
    )


def tested_data(data: Data, root: str, split: str) -> tuple[Data, str]:
    """Return a run's data options with the split that is shown, see `choose_test_split`."""
    return choose_test_split(replace(data, test_split=split or data.test_split), root)


def _part(document: RecipeFile, cls: type[Part], folder: Path) -> Part:
    name = cls.__name__.lower()
    return from_plain(cls, document.recipe.get(name), f"{folder / FILE_NAME}: {name}")


def _points(lines: Sequence[Mapping[str, Any]], mode: str, name: str) -> tuple[tuple[float, float], ...]:
    values = [(line["iteration"], line.get(name)) for line in lines if line["mode"] == mode]
    return tuple((float(i), float(v)) for i, v in values if v is not None and math.isfinite(v))


def _date(lines: Sequence[Mapping[str, Any]]) -> str:
    times = [line["time"] for line in lines if 0 < (line.get("time") or 0) < _YEAR_9999]
    return datetime.fromtimestamp(max(times), UTC).strftime("%Y-%m-%d %H:%M UTC") if times else ""


def _last_scores(lines: Sequence[Mapping[str, Any]], meta: CheckpointMeta) -> Mapping[str, float | None]:
    """Scores stored with the weights, else those of the last validation."""
    validations = [line for line in lines if line["mode"] == "val"]
    return meta.scores or (validations[-1] if validations else {})


def _scores(weights: Path, images: ScoredImages, protocols: Sequence[Evaluate]) -> list[ScoreFile | None]:
    """Return the newest score of these very weights on these images under each protocol; says which others there are.

    A score of the same file name but of earlier weights is left out like one of other images or another protocol.
    """
    sha256 = file_hash(weights)
    found: list[ScoreFile | None] = [None] * len(protocols)
    for path, score in read_scores(weights):
        fitting = [i for i, protocol in enumerate(protocols) if score.is_of(images, protocol)]
        if score.sha256 == sha256 and fitting:
            for i in fitting:
                found[i] = score
        else:
            what = "images or another protocol" if score.sha256 == sha256 else "weights"
            log.warning("%s is not shown: it is a score of other %s", path, what)
    return found


def read_gallery(folder: Path) -> tuple[Picture, ...]:
    """Return the pictures of a gallery folder, by name; none where the folder does not exist.

    Raises:
        InputError: if a file of it cannot be read.
    """
    pictures: list[Picture] = []
    for path in sorted(folder.glob("*.image.png")):
        name = path.name.removesuffix(".image.png")
        label = folder / f"{name}.label.png"
        prediction = _read_image(folder / f"{name}.prediction.png", cv2.IMREAD_GRAYSCALE)
        truth = _read_image(label, cv2.IMREAD_GRAYSCALE) if label.is_file() else None
        pictures.append(Picture(name.partition(" ")[2] or name, _read_image(path, cv2.IMREAD_COLOR), truth, prediction))
    return tuple(pictures)


def _read_image(path: Path, mode: int) -> np.ndarray:
    image = cv2.imread(str(path), mode)
    if image is None:
        raise InputError(f"cannot read the gallery file {path}; delete the folder {path.parent} and report again")
    return image
