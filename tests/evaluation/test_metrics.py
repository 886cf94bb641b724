"""Metrics: brute force, undefined classes, values outside the classes, sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segcore.evaluation.metrics import ConfusionMatrix


def brute_force(prediction: np.ndarray, label: np.ndarray, num_classes: int) -> dict[str, list[float]]:
    """Count pixel by pixel; NaN where nothing is counted."""
    scores: dict[str, list[float]] = {"iou": [], "accuracy": [], "dice": []}
    for c in range(num_classes):
        both = predicted = labeled = 0
        for p, t in zip(prediction.ravel().tolist(), label.ravel().tolist(), strict=True):
            if t == 255:
                continue
            both += p == c and t == c
            predicted += p == c
            labeled += t == c
        scores["iou"].append(both / (predicted + labeled - both) if predicted + labeled else math.nan)
        scores["accuracy"].append(both / labeled if labeled else math.nan)
        scores["dice"].append(2 * both / (predicted + labeled) if predicted + labeled else math.nan)
    return scores


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), num_classes=st.integers(1, 7), size=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_scores_equal_brute_force(seed: int, num_classes: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    # two values more than there are classes: labels and predictions outside of them, and ignored pixels
    label = rng.integers(0, num_classes + 2, size).astype(np.uint8)
    label[rng.random(size) < 0.3] = 255
    prediction = rng.integers(0, num_classes + 2, size).astype(np.uint8)
    matrix = ConfusionMatrix(num_classes)
    matrix.update(torch.from_numpy(prediction), torch.from_numpy(label))
    scores, expected = matrix.scores(), brute_force(prediction, label, num_classes)
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(scores, name), values, rtol=1e-12)
    defined = [value for value in expected["iou"] if not math.isnan(value)]
    assert scores.miou == pytest.approx(np.mean(defined), rel=1e-12) if defined else math.isnan(scores.miou)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_images_counted_one_by_one_equal_one_batch(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    prediction, label = (torch.randint(0, 6, (4, 5, 7), generator=generator) for _ in range(2))
    single, together = ConfusionMatrix(6), ConfusionMatrix(6)
    for one, other in zip(prediction, label, strict=True):
        single.update(one, other)
    together.update(prediction, label)
    assert torch.equal(single.matrix, together.matrix)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_every_integer_type_counts_alike(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, label = (torch.randint(0, 4, (6, 6), generator=generator) for _ in range(2))
    label[0] = 255
    matrix, other = ConfusionMatrix(4), ConfusionMatrix(4)
    matrix.update(prediction, label)
    other.update(prediction.to(dtype), label.to(dtype))
    assert torch.equal(matrix.matrix, other.matrix)
    assert int(matrix.matrix.sum()) == 30


def test_a_class_that_is_present_and_predicted_but_never_hit_has_no_fscore() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([[0, 1, 2]]), torch.tensor([[0, 2, 1]]))
    scores = matrix.scores()
    np.testing.assert_array_equal(scores.dice, [1, 0, 0])
    np.testing.assert_array_equal(scores.fscore, [1, np.nan, np.nan])
    assert (scores.mdice, scores.mfscore) == (pytest.approx(1 / 3), 1)


def test_labels_outside_the_classes_count_as_predicted_in_family_m_and_not_in_family_s() -> None:
    prediction, label = torch.tensor([[0, 1, 1]]), torch.tensor([[0, 1, 7]])
    published, strict = ConfusionMatrix(2), ConfusionMatrix(2, outside="ignored")
    for matrix in (published, strict):
        matrix.update(prediction, label)
    np.testing.assert_array_equal(published.scores().iou, [1, 0.5])
    np.testing.assert_array_equal(strict.scores().iou, [1, 1])


def test_an_unlabeled_image_adds_nothing() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([[0, 1, 2]]), torch.full((1, 3), 255))
    assert int(matrix.matrix.sum()) == 0
    assert math.isnan(matrix.scores().miou)


def test_the_summary_has_the_reference_keys_and_two_decimals_of_a_percent() -> None:
    matrix = ConfusionMatrix(3, names=("road", "sky", "tree"))
    matrix.update(torch.tensor([[0, 0, 0, 1]]), torch.tensor([[0, 0, 1, 1]]))
    summary = matrix.scores().summary()
    classes = ("road", "sky", "tree")
    assert list(summary) == ["aAcc", "mIoU", "mAcc", *(f"{key}.{name}" for key in ("IoU", "Acc") for name in classes)]
    assert summary["mIoU"] == pytest.approx(0.5833, abs=1e-12)
    assert math.isnan(summary["IoU.tree"])
    names = matrix.scores().summary(("mIoU", "mDice", "mFscore"))
    assert {"mDice", "mFscore", "mPrecision", "mRecall", "Dice.sky", "Fscore.road"} <= set(names)


def test_prediction_and_label_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        ConfusionMatrix(2).update(torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(3, 2, dtype=torch.uint8))


def test_counts_stay_exact_beyond_the_precision_of_float32() -> None:
    matrix = ConfusionMatrix(2)
    matrix.matrix[0, 0] = 2**40
    matrix.update(torch.tensor([[0, 1]]), torch.tensor([[0, 0]]))
    assert matrix.scores().intersection[0] == 2**40 + 1
    assert matrix.scores().labeled[0] == 2**40 + 2
