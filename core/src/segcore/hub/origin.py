"""Where a network comes from: what its weights file and its model card say."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypedDict

from segcore.errors import check
from segcore.recipe import Evaluate
from segcore.weights.header import CheckpointMeta

SUMMARY = ("mIoU", "aAcc", "mAcc")
"""Scores that a card shows, in this order."""
UNKNOWN = "unknown"
_FOLDERS = (("run", "work_dir"), ("run", "data"))
_FILES = (
    *(("run", option) for option in ("resume_from", "load_from")),
    *(("data", option) for option in ("train_list", "val_list", "test_list", "classes")),
    ("model", "weights"),
)
_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


class About(TypedDict, total=False):
    """What a network does not know of itself."""

    classes: Sequence[str]
    """Names of the classes, in the order of their numbers."""
    license: str
    """Of these weights, by the hub's word, such as cc-by-4.0; the data set they learned from may have a say in it."""
    scores: Mapping[str, float]
    """Fractions by what they are, with data and protocol: {"mIoU on our test streets, single scale": 0.71}."""


class Score(NamedTuple):
    """A score: a fraction, and what was measured under which conditions."""

    metric: str
    value: float
    conditions: str


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a network comes from."""

    meta: CheckpointMeta
    """Paper, recipe, classes: what its weights file says."""
    title: str
    """Name and reference of the paper."""
    citation: str
    """BibTeX entry of the paper; empty where none is known."""
    proven: str
    """How far the code was compared with the published one."""
    scores: tuple[Score, ...] = ()
    """Tests of exactly these weights."""
    license: str = UNKNOWN

    def without_paths(self) -> Origin:
        """Return the origin without folders of the machine that trained the network; of files, the names stay."""
        recipe = {part: dict(values) for part, values in self.meta.recipe.items()}
        for part, option in _FOLDERS:
            recipe[part][option] = ""
        for part, option in _FILES:
            recipe[part][option] = Path(recipe[part][option]).name
        return replace(self, meta=replace(self.meta, recipe=recipe))

    def described(self, about: About) -> Origin:
        """Return the origin with what a user says of the network.

        Raises:
            InputError: for another number of classes, a license that is no word, a score that is no fraction.
        """
        classes = [str(name) for name in about.get("classes", self.meta.classes)]
        count, needed = len(classes), len(self.meta.classes)
        check(count == needed, f"classes: expected {needed} names, one per class of the network, got {count}")
        license = about.get("license", self.license)
        check(bool(_LICENSE.fullmatch(license)), f"license: expected a word such as cc-by-4.0, got {license!r}")
        given = about.get("scores", {})
        for name, value in given.items():
            check(math.isfinite(value) and 0 <= value <= 1, f"scores: {name} must be a fraction of 1, got {value}")
        scores = (*self.scores, *(Score(name, value, "as the author says") for name, value in given.items()))
        return replace(self, meta=replace(self.meta, classes=classes), license=license, scores=scores)


def conditions(dataset: str, split: str, protocol: Evaluate) -> str:
    """Say what a score is of: data, scales and windows."""
    height, width = protocol.crop
    where = f"windows of {height}x{width} pixels" if protocol.mode == "slide" else "whole images"
    return f"{dataset} {split}, {protocol.words}, {where}"
