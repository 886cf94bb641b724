"""The score of a test as a file beside the weights that it belongs to: NAME.SPLIT.PROTOCOL.DIGEST.json.

It says what makes it comparable: the weights by their hash, the images, the whole protocol. Loads no torch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from segcore.data import fixed_datasets
from segcore.errors import InputError
from segcore.files import atomic_write
from segcore.recipe import AMP, Data, Evaluate
from segcore.recipe.plain import from_json, to_plain

_END = re.compile(r"\.[0-9a-f]{8}\.json$")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ScoredImages:
    """Which images and labels were scored; equal where a score may stand for another."""

    dataset: str
    split: str
    list_file: str = ""
    """File of the stems; empty is the whole split."""
    settings: dict[str, int | str | list[int]]
    """What makes them where the name does not: folder, classes and mask values of one's own data; size and number of
    generated scenes. Published data sets are the same in every folder."""

    @classmethod
    def of(cls, data: Data, root: str) -> ScoredImages:
        """Return the images that a recipe tests on; `root` is the folder of the data set."""
        settings: dict[str, int | str | list[int]] = {}
        if data.dataset == "toy":
            settings = {"image_size": [*data.image_size], "num_images": data.num_images[1]}
        elif data.dataset not in fixed_datasets():
            settings = {"root": _absolute(root), "classes": _absolute(data.classes), "ignore": data.ignore}
            settings["mask_values"] = [*data.mask_values]
        return cls(dataset=data.dataset, split=data.test_split, list_file=_absolute(data.test_list), settings=settings)


@dataclass(frozen=True, kw_only=True)
class ScoreFile:
    """What a score file says."""

    weights: str
    """Name of the weights file."""
    sha256: str
    """Of the weights file."""
    paper: str
    recipe: str
    """Name of the recipe."""
    data: ScoredImages
    images: int
    """Images scored."""
    protocol: Evaluate
    amp: AMP
    time: str
    metric: dict[str, float | None]
    """Fractions by the names of `Scores.summary`; None for the scores of absent classes."""

    def is_of(self, data: ScoredImages, protocol: Evaluate) -> bool:
        """Return whether this is a score on these images under this protocol."""
        return self.data == data and _deciding(self.protocol) == _deciding(protocol)


def score_path(folder: Path, weights: Path, data: ScoredImages, protocol: Evaluate) -> Path:
    """Return where the score of these weights belongs; another test of the same has the same place."""
    settings = json.dumps([to_plain(data), to_plain(_deciding(protocol))], sort_keys=True)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
    words = protocol.words.replace(" + ", "-").replace(" ", "-")
    return folder / f"{weights.stem}.{data.split}.{words}.{digest}.json"


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, as `sha256sum` prints it.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def defined(metric: Mapping[str, float]) -> dict[str, float | None]:
    """Return scores with None for NaN, those of absent classes: JSON knows no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in metric.items()}


def now() -> str:
    """Return the time for a score file, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_score(path: Path, score: ScoreFile) -> None:
    """Write a score file.

    Raises:
        InputError: if it cannot be written.
    """
    with atomic_write(path) as file:
        file.write(f"{json.dumps(to_plain(score), indent=1, allow_nan=False)}\n".encode())


def read_scores(weights: Path) -> list[tuple[Path, ScoreFile]]:
    """Return the score files of a weights file by their age, also those of an earlier file of that name.

    Says which files cannot be used.
    """
    found: list[tuple[Path, ScoreFile]] = []
    for path in weights.parent.iterdir():
        if path.name.startswith(f"{weights.stem}.") and _END.search(path.name):
            try:
                found.append((path, from_json(ScoreFile, path.read_bytes(), str(path))))
            except (InputError, OSError) as error:
                log.warning("%s; delete the file and test again", error)
    return sorted(found, key=lambda pair: pair[1].time)


def _absolute(path: str) -> str:
    return str(Path(path).resolve()) if path else ""


def _deciding(protocol: Evaluate) -> Evaluate:
    """Leave out what does not change a prediction: what --aug-test would set, and windows per batch."""
    return replace(
        protocol, aug_ratios=(1.0,), aug_flip=False, aug_mode="same", aug_probabilities=False, window_batch=1
    )
