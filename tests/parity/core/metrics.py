"""Metrics (docs/protocol 4) and the overlay of a prediction on its image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from segcore.data.labels import reduce_zero_label
from segcore.evaluation.metrics import ConfusionMatrix, Scores
from segcore.images.visualize import overlay
from tests.parity.building import array, ignored_as_255
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.core.limits import EXACT, families, limits, ratio_limits


def compare(case: ParityCase) -> Iterator[Comparison]:
    """Yield areas and scores; with both families (`M+S`) those of each, under its name in `expected`."""
    found = families(case.data, "M", "S")
    for family in found:
        expected = case.data["expected"] if len(found) == 1 else case.data["expected"][family]
        scores = _scores(case.data["inputs"], family)
        for comparison in _compare(scores, expected, ratio_limits(case.data)):
            yield replace(comparison, name=f"{family}: {comparison.name}")


def _scores(inputs: Mapping[str, Any], family: str) -> Scores:
    matrix = ConfusionMatrix(inputs["num_classes"], outside="ignored" if family == "S" else "predicted")
    for prediction, label in inputs["pairs"]:
        values = ignored_as_255(array(label), inputs["ignore"]).numpy()
        if inputs["reduce_zero"]:
            values = reduce_zero_label(values.astype(np.uint8))
        matrix.update(torch.from_numpy(array(prediction)), torch.from_numpy(values))
    return matrix.scores()


def _compare(scores: Scores, expected: Mapping[str, Any], allowed: Mapping[str, float]) -> Iterator[Comparison]:
    areas = {
        "intersect": scores.intersection,
        "union": scores.union,
        "pred": scores.predicted,
        "label": scores.labeled,
    }
    ratios = {
        "aacc": scores.aacc, "all_accuracy": scores.aacc, "iou": scores.iou, "acc": scores.accuracy,
        "accuracy": scores.accuracy, "dice": scores.dice, "fscore": scores.fscore, "precision": scores.precision,
        "recall": scores.recall, "miou": scores.miou, "macc": scores.macc, "mdice": scores.mdice,
        "mfscore": scores.mfscore, "mprecision": scores.mprecision, "mrecall": scores.mrecall,
    }  # fmt: skip
    for name in expected:
        if name == "summary_percent":
            summary, published = scores.summary(("mIoU", "mDice", "mFscore")), expected[name]
            for key in published:
                yield Comparison(f"summary {key}", summary[key], published[key] / 100, atol=1e-12)
        elif name in areas:
            yield Comparison(name, areas[name], expected[name], **EXACT)
        else:
            yield Comparison(name, ratios[name.lower()], np.asarray(expected[name], np.float64), **allowed)


def overlays(case: ParityCase) -> Iterator[Comparison]:
    """Yield the picture of each opacity."""
    families(case.data, "M")
    inputs, expected = case.data["inputs"], case.data["expected"]
    image, label = array(inputs["pixels"]), array(inputs["prediction"])
    palette = np.asarray(inputs["palette"], np.uint8)
    for result in expected["results"]:
        opacity = result["opacity"]
        ours = overlay(image, label, palette, opacity)
        yield Comparison(f"opacity {opacity}", ours, np.asarray(result["image"]), **limits(case.data))
