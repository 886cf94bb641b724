"""Intervals and p-values of mIoU: against brute force, and where the answer is known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from segcore.errors import InputError
from segcore.evaluation.metrics import ConfusionMatrix
from segcore.evaluation.statistics import Bootstrap, Counts, Difference, Estimate, corrected


def counts(generator: np.random.Generator, skill: float, num_images: int = 40) -> Counts:
    labeled = generator.integers(20, 200, (num_images, 3))
    hit = np.minimum(np.round(labeled * np.clip(skill + generator.normal(0, 0.05, labeled.shape), 0, 1)), labeled)
    hit = hit.astype(np.int64)
    return Counts(hit, hit + (labeled - hit)[:, [1, 2, 0]], labeled)


def test_iou_of_counts_is_that_of_the_confusion_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 4, (2, 9, 7), generator=generator) for _ in range(5)]
    total = ConfusionMatrix(4, torch.device("cpu"), names=tuple("abcd"))
    rows = []
    for prediction, label in images:
        one = ConfusionMatrix(4, torch.device("cpu"), names=tuple("abcd"))
        for matrix in (total, one):
            matrix.update(prediction, label)
        rows.append(one.scores())
    parts = (np.stack([getattr(row, name) for row in rows]) for name in ("intersection", "predicted", "labeled"))
    np.testing.assert_allclose(Counts(*parts).iou(), total.scores().iou, rtol=1e-12)


def test_weights_count_images_as_often_as_they_are_drawn() -> None:
    drawn = counts(np.random.default_rng(0), 0.7, num_images=4)
    chosen = np.array([0, 0, 3])
    weights = np.bincount(chosen, minlength=4).astype(np.float64)[None]
    repeated = Counts(*(part[chosen] for part in (drawn.intersection, drawn.predicted, drawn.labeled)))
    np.testing.assert_allclose(drawn.iou(weights), repeated.iou(), rtol=1e-12)


def test_a_class_that_never_occurs_is_no_number_and_not_averaged() -> None:
    zero = np.zeros((3, 2), np.int64)
    some = np.array([[4, 0], [2, 0], [6, 0]])
    run = Counts(some, some, some)
    assert np.isnan(run.iou()[1])
    assert Bootstrap({"a": [run]}, resamples=50).scores()["a"].value == 1
    assert Bootstrap({"a": [Counts(zero, zero, zero)]}, resamples=50).scores()["a"].value == 0


def test_a_network_beside_itself_differs_by_nothing() -> None:
    run = counts(np.random.default_rng(1), 0.6)
    (found,) = Bootstrap({"a": [run], "b": [run]}, resamples=200).differences()
    assert (found.estimate.value, found.estimate.low, found.estimate.high) == (0, 0, 0)
    assert found.estimate.p == 1
    assert not found.is_significant


def test_a_clear_difference_is_called_one_and_seeds_widen_its_interval() -> None:
    generator = np.random.default_rng(2)
    better, worse = ([counts(generator, skill) for _ in range(3)] for skill in (0.8, 0.5))
    (found,) = Bootstrap({"a": better, "b": worse}, resamples=2000).differences()
    assert found.is_significant
    assert 0 < found.estimate.low < found.estimate.value < found.estimate.high
    steady = [better[0]] * 3
    shaken = [better[0], counts(generator, 0.6), counts(generator, 0.9)]
    estimates = Bootstrap({"steady": steady, "shaken": shaken}, resamples=2000).scores()
    width = {name: estimate.high - estimate.low for name, estimate in estimates.items()}
    assert width["shaken"] > 3 * width["steady"]


def test_the_same_draws_give_the_same_interval_in_any_order_of_networks() -> None:
    generator = np.random.default_rng(3)
    runs = {name: [counts(generator, 0.6) for _ in range(2)] for name in "ab"}

    def limits(of: Mapping[str, list[Counts]], seed: int) -> dict[str, tuple[float, float, float]]:
        scores = Bootstrap(of, resamples=300, seed=seed).scores()
        return {name: (found.low, found.value, found.high) for name, found in scores.items()}

    there = limits(runs, seed=5)
    assert limits(dict(reversed(runs.items())), seed=5) == there
    assert limits(runs, seed=6) != there


def test_the_difference_of_one_class_is_of_that_class() -> None:
    generator = np.random.default_rng(4)
    runs = {"a": [counts(generator, 0.8)], "b": [counts(generator, 0.5)]}
    for number, (found,) in enumerate(Bootstrap(runs, resamples=100).class_differences()):
        expected = runs["a"][0].iou()[number] - runs["b"][0].iou()[number]
        assert found.estimate.value == pytest.approx(expected)


def test_a_class_that_no_image_has_differs_by_nothing_that_could_be_said() -> None:
    zero = np.zeros((3, 1), np.int64)
    empty, some = Counts(zero, zero, zero), counts(np.random.default_rng(6), 0.5, 3)
    joined = Counts(*(np.hstack([a, b]) for a, b in zip(vars(some).values(), vars(empty).values(), strict=True)))
    *_, (found,) = Bootstrap({"a": [joined], "b": [joined]}, resamples=20).class_differences()
    assert np.isnan(found.estimate.value)
    assert not found.is_significant


def test_p_values_are_corrected_as_holm_says() -> None:
    found = [Difference("a", str(i), Estimate(0, 0, 0, p)) for i, p in enumerate([0.04, 0.01, 0.03])]
    assert [d.estimate.p for d in corrected(found)] == pytest.approx([0.06, 0.03, 0.06])


def test_runs_on_different_images_are_refused() -> None:
    generator = np.random.default_rng(5)
    with pytest.raises(InputError, match="different images or classes"):
        Bootstrap({"a": [counts(generator, 0.5, 10)], "b": [counts(generator, 0.5, 11)]})
