"""Run folders with the files of real trainings and tests, whose counts are drawn: nothing is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from segcore.compare.study import COST
from segcore.data.toy.dataset import CLASSES
from segcore.evaluation.image_counts import KINDS, SIZE_NAMES, ImageCounts, counts_path, write_counts
from segcore.evaluation.score_files import ScoredImages, ScoreFile, file_hash, score_path, write_score
from segcore.paper import find_model
from segcore.recipe.file import FILE_NAME, recipe_document
from segcore.recipe.plain import to_plain
from segcore.weights.files import save_weights
from segcore.weights.header import CheckpointMeta

IMAGES = 30


def drawn_counts(generator: np.random.Generator, skill: float, score: ScoreFile, names: tuple[str, ...]) -> ImageCounts:
    """Return counts of a network that has about `skill` of every class right."""
    shape = (IMAGES, len(names))
    labeled = np.random.default_rng(99).integers(20, 200, shape)  # the same images for all
    share = np.clip(skill + generator.normal(0, 0.03, shape), 0, 1)
    right = np.round(labeled * share).astype(np.int64)
    predicted = right + np.roll(labeled - right, 1, axis=1)
    near, near_right = labeled // 2, right // 3
    by_kind = dict(zip(KINDS, (right, predicted, labeled, near_right, near, near, near_right), strict=True))
    classes = np.stack([by_kind[kind] for kind in KINDS], axis=1).astype(np.int32)
    by_size = (IMAGES, len(SIZE_NAMES))
    segments = np.stack([np.full(by_size, round(100 * skill)), np.full(by_size, 100)])
    matrix = np.zeros((len(names), len(names) + 1), np.int64)
    matrix[:, :-1] += np.diag(right.sum(axis=0)) + np.roll(np.diag((labeled - right).sum(axis=0)), 1, axis=1)
    images = tuple(f"test_{number:06d}" for number in range(IMAGES))
    return ImageCounts(
        score=score,
        images=images,
        class_names=names,
        classes=classes,
        segments=segments.transpose(1, 0, 2).astype(np.int32),
        matrix=matrix,
    )


def make_run(
    folder: Path,
    model: str,
    seed: int,
    skill: float,
    *,
    names: tuple[str, ...] = CLASSES.names,
    with_multi: bool = False,
    split: str = "test",
) -> Path:
    """Write the folder of a trained and tested run and return it.

    Args:
        model: name as of `segcore.list_models`.
        skill: share of the pixels that it has right.
    """
    paper, name = find_model(model)
    base = paper.recipes[name]
    recipe = replace(
        base,
        data=replace(base.data, dataset="toy", num_images=(8, IMAGES), test_split=split),
        run=replace(base.run, seed=seed, work_dir=str(folder), device="cpu"),
    )
    palette = CLASSES.palette.tolist()
    meta = CheckpointMeta(
        paper=paper.name,
        recipe_name=name,
        recipe=to_plain(recipe),
        classes=list(names),
        palette=[palette[i % len(palette)] for i in range(len(names))],
        iteration=20,
        scores={},
        versions={},
    )
    folder.mkdir(parents=True)
    weights = folder / "best.safetensors"
    save_weights(weights, {"weight": torch.full((3,), float(seed))}, meta)
    (folder / FILE_NAME).write_text(recipe_document(paper.name, name, recipe, {}))
    lines = [
        {"mode": "train", "iteration": i, "loss": 2 / i, "images_per_second": 4.0, "memory_mib": 900 + 100 * skill}
        for i in range(1, 21)
    ]
    lines.append({"mode": "val", "iteration": 20, "mIoU": skill})
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    if seed == 0:
        cost = {"latency_ms": 10 + 40 * skill, "parameters": 12e6, "macs": 3e9}
        (folder / COST).write_text(json.dumps({**cost, "input": "192x256", "device": "1 CPU threads", "amp": "off"}))
    generator = np.random.default_rng([seed, round(1000 * skill)])
    for protocol in (recipe.evaluate, recipe.evaluate.with_augmentation())[: 1 + with_multi]:
        score = ScoreFile(
            weights=weights.name,
            sha256=file_hash(weights),
            paper=paper.name,
            recipe=name,
            data=ScoredImages.of(recipe.data, ""),
            images=IMAGES,
            protocol=protocol,
            amp="off",
            time=f"2026-01-01T00:00:0{int(protocol.flip)}",
            metric={"mIoU": skill},
        )
        path = score_path(folder, weights, score.data, protocol)
        better = skill + 0.05 * protocol.flip
        write_counts(counts_path(path), drawn_counts(generator, better, score, names))
        write_score(path, score)
    return folder


def make_runs(folder: Path, **options: object) -> list[Path]:
    """Write two seeds of three heads: one clearly the best, two alike."""
    skills = {"cgrseg-toy": 0.8, "fcn-toy": 0.6, "smp-unet": 0.598}
    return [
        make_run(folder / f"{model}-{seed}", model, seed, skill + 0.001 * seed, **options)  # pyright: ignore
        for model, skill in skills.items()
        for seed in range(2)
    ]
