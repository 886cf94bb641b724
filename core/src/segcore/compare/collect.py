"""What a study, or runs made by hand, came to: counts of every image, curves and costs. Loads no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segcore.compare.study import COST, StudyFile, read_study, run_folder
from segcore.errors import InputError, check
from segcore.evaluation.image_counts import ImageCounts, counts_path, read_counts
from segcore.evaluation.score_files import file_hash, read_scores
from segcore.evaluation.statistics import Counts
from segcore.recipe import Evaluate
from segcore.recipe.file import FILE_NAME, read_recipe_file
from segcore.training.run_folder import read_log, training_seconds
from segcore.weights.header import CheckpointMeta, find_weights, read_meta

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A trained and tested network.

    Attributes:
        single, multi: counts at a single scale, and with several scales and flip where that was tested.
        losses, mious: curves over iterations; mIoU of the validations, fraction.
        seconds: of training, without validation.
        memory_mib: peak of the training.
    """

    seed: int
    folder: Path
    weights: Path
    meta: CheckpointMeta
    single: ImageCounts
    multi: ImageCounts | None
    losses: Points
    mious: Points
    seconds: float
    memory_mib: float


@dataclass(frozen=True, kw_only=True)
class ComparedHead:
    """A head with the runs of its seeds.

    Attributes:
        recipe: as plain data, that of its first run.
        cost: see `segcore.compare.cost`; empty where it was not measured.
    """

    name: str
    runs: tuple[ComparedRun, ...]
    recipe: Mapping[str, Any]
    cost: Mapping[str, Any]

    def counts(self, *, of_boundary: bool = False, is_multi: bool = False) -> list[Counts]:
        """Return what the statistics are made of, one entry a seed."""
        tests = [run.multi if is_multi else run.single for run in self.runs]
        return [test.counts(of_boundary=of_boundary) for test in tests if test is not None]

    @property
    def has_multi(self) -> bool:
        """Whether every run was tested with several scales and flip."""
        return all(run.multi is not None for run in self.runs)

    def mean(self, name: str) -> float:
        """Return the mean over the runs of `seconds` or `memory_mib`; NaN where nothing was logged."""
        values = [getattr(run, name) for run in self.runs]
        return sum(values) / len(values)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Heads that were tested on the same images.

    Attributes:
        missing: run -> why it is not there, in a sentence.
        commands: that made the study; empty for runs made by hand.
    """

    heads: tuple[ComparedHead, ...]
    missing: Mapping[str, str]
    commands: Sequence[str]

    @property
    def first(self) -> ImageCounts:
        """Any test: its images, classes and protocol are those of all."""
        return self.heads[0].runs[0].single

    @property
    def palette(self) -> list[list[int]]:
        """RGB color of each class."""
        return self.heads[0].runs[0].meta.palette


def collect(folders: Sequence[Path]) -> Comparison:
    """Read a study's folder, or the folders of runs.

    Raises:
        InputError: if there is nothing to compare, or the runs were not tested on the same images.
    """
    state = read_study(folders[0]) if len(folders) == 1 else None
    comparison = _of_study(folders[0], state) if state else _of_runs(folders)
    check(len(comparison.heads) > 0, f"{folders[0]} has no tested run yet{_why(comparison.missing)}")
    _check_images(comparison)
    return comparison


def _why(missing: Mapping[str, str]) -> str:
    return "".join(f"; {name}: {text}" for name, text in list(missing.items())[:3])


def _of_study(folder: Path, state: StudyFile) -> Comparison:
    heads: list[ComparedHead] = []
    missing = dict(state.problems)
    for word in state.heads:
        found: list[ComparedRun] = []
        for seed in range(state.seeds):
            place = run_folder(folder, word, state.chosen.get(word, state.lrs[0]), seed)
            name = f"{word}/{place.name}"
            try:
                found.append(_read_run(place))
            except InputError as error:
                missing.setdefault(name, "not trained yet" if name not in state.trained else str(error))
        if found:
            heads.append(_head(word, found))
    return Comparison(heads=tuple(heads), missing=missing, commands=state.commands)


def _of_runs(folders: Sequence[Path]) -> Comparison:
    groups: dict[str, list[ComparedRun]] = {}
    for folder in folders:
        document = read_recipe_file(folder / FILE_NAME)
        # what makes two runs seeds of one head
        same = {name: part for name, part in document.recipe.items() if name not in ("run", "published")}
        key = json.dumps([document.paper, same], sort_keys=True)
        groups.setdefault(key, []).append(_read_run(folder))
    heads: list[ComparedHead] = []
    for runs in groups.values():
        document = read_recipe_file(runs[0].folder / FILE_NAME)
        name = f"{document.paper}-{document.name}"
        is_taken = any(head.name == name for head in heads)
        heads.append(_head(f"{name} ({runs[0].folder.name})" if is_taken else name, runs))
    return Comparison(heads=tuple(heads), missing={}, commands=())


def _head(name: str, runs: Sequence[ComparedRun]) -> ComparedHead:
    ordered = tuple(sorted(runs, key=lambda run: run.seed))
    costs = (_read_cost(run.folder) for run in ordered)
    recipe = read_recipe_file(ordered[0].folder / FILE_NAME).recipe
    return ComparedHead(name=name, runs=ordered, recipe=recipe, cost=next(filter(None, costs), {}))


def _read_cost(folder: Path) -> dict[str, Any]:
    path = folder / COST
    try:
        return json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}); measure again: segcore compare cost CHECKPOINT") from error


def _read_run(folder: Path) -> ComparedRun:
    """Read a run's folder.

    Raises:
        InputError: if its weights were not tested.
    """
    weights = find_weights(folder)
    meta = read_meta(weights)
    check(meta is not None, f"{weights} does not say its recipe; a file written by <paper>-train is expected")
    assert meta is not None
    single, multi = _tests(weights)
    if single is None:
        raise InputError(f"{weights} was not tested, or before counts were kept: segcore test {weights}")
    lines = read_log(folder / "log.jsonl")
    trained = [line for line in lines if line["mode"] == "train"]
    return ComparedRun(
        seed=int(meta.recipe["run"]["seed"]),
        folder=folder,
        weights=weights,
        meta=meta,
        single=single,
        multi=multi,
        losses=_points(trained, "loss"),
        mious=_points([line for line in lines if line["mode"] == "val"], "mIoU"),
        seconds=training_seconds(lines, meta.recipe["data"]["batch"]),
        memory_mib=trained[-1].get("memory_mib") or math.nan if trained else math.nan,
    )


def _points(lines: Sequence[Mapping[str, Any]], name: str) -> Points:
    return tuple((float(line["iteration"]), float(line[name])) for line in lines if line.get(name) is not None)


def _tests(weights: Path) -> tuple[ImageCounts | None, ImageCounts | None]:
    """Return the newest tests of these very weights: single scale, several scales or flip."""
    sha256 = file_hash(weights)
    found: dict[bool, ImageCounts] = {}
    for path, score in read_scores(weights):
        counts = counts_path(path)
        if score.sha256 == sha256 and counts.is_file():
            found[_is_multi(score.protocol)] = read_counts(counts)
    return found.get(False), found.get(True)


def _is_multi(protocol: Evaluate) -> bool:
    return len(protocol.ratios) > 1 or protocol.flip


def _check_images(comparison: Comparison) -> None:
    """Refuse runs that were not tested on the same images, or do not tell the same classes."""
    first = comparison.first
    for head in comparison.heads:
        for run in head.runs:
            for test in filter(None, (run.single, run.multi)):
                data = replace(test.score.data, settings={}), replace(first.score.data, settings={})
                is_same = test.images == first.images and test.class_names == first.class_names and data[0] == data[1]
                check(
                    is_same,
                    f"{run.weights} was tested on other images than {comparison.heads[0].runs[0].weights}; test both "
                    "on one split: segcore test CHECKPOINT --data.test-split SPLIT",
                )
