"""How sure a comparison is: intervals and p-values of mIoU from the counts of every image and several training seeds.

A score measured once is one draw of two lotteries: which images were tested, and how training happened to end. Both are
drawn again here.

- Images: bootstrap. mIoU is a ratio of sums over images, so each resample weighs the images' counts and divides anew.
- Seeds: with two or three of them a bootstrap would be far too sure (it never sees more than it was given, and shrinks
  the variance by (S - 1) / S). The error of their mean is drawn from Student's t with S - 1 degrees of freedom instead,
  scaled by the deviation between seeds (as Behrens and Fisher join two means of unknown variance). Measured beside it:
  one t for both parts, with degrees of freedom after Welch and Satterthwaite, called equal networks different in 27 %
  of the studies with two seeds.

Differences of two networks are paired: by image, since both saw the same ones, and by seed, since a study gives both
the same data order. `bench/coverage.py` simulates whole studies and counts how often the intervals hold the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from segcore.errors import check

Array = NDArray[np.floating]
LEVEL = 0.95
"""Probability that an interval holds the truth."""
_AT_ONCE = 1 << 24  # weights drawn together: 128 MiB


@dataclass(frozen=True)
class Counts:
    """Pixels of every image by class, of one trained network: what IoU is made of.

    Shapes:
        intersection, predicted, labeled (N, K) integers, pixels
    """

    intersection: NDArray[np.int64]
    predicted: NDArray[np.int64]
    labeled: NDArray[np.int64]

    def iou(self, weights: Array | None = None) -> Array:
        """Return the IoU of each class over all images, NaN where it has no pixel.

        Args:
            weights: how often each image counts; once without them.

        Shapes:
            weights (R, N) -> (R, K); none -> (K,)
        """
        weights = np.ones((1, len(self.intersection))) if weights is None else weights
        hit, predicted, labeled = (weights @ part for part in (self.intersection, self.predicted, self.labeled))
        with np.errstate(invalid="ignore"):
            result = hit / (predicted + labeled - hit)
        return result[0] if len(result) == 1 else result


@dataclass(frozen=True)
class Estimate:
    """A quantity with its interval.

    Attributes:
        value: as measured, mean over the seeds.
        low, high: bounds of the 95 % interval.
        p: two-sided probability of a value this far from zero if the truth were zero; NaN for a score.

    A class that no image has is NaN with p 1.
    """

    value: float
    low: float
    high: float
    p: float = float("nan")


@dataclass(frozen=True)
class Difference:
    """Two networks compared on the same images.

    Attributes:
        first, second: their names; the estimate is first minus second.
        estimate: its p is corrected for the number of comparisons (Holm).
        seeds: trained networks of each that were compared.
    """

    first: str
    second: str
    estimate: Estimate
    seeds: int = 1

    @property
    def is_significant(self) -> bool:
        """Whether the two differ at the 5 % level, over all comparisons together.

        Never with one seed: its interval is about these trained networks on other images, and another seed may end
        elsewhere.
        """
        return self.seeds > 1 and self.estimate.p < 1 - LEVEL


def _check(runs: Mapping[str, Sequence[Counts]]) -> tuple[int, int]:
    """Return the number of images and classes.

    Raises:
        InputError: if the networks were tested on different images or classes.
    """
    shapes = {counts.labeled.shape for seeds in runs.values() for counts in seeds}
    check(
        len(shapes) == 1, "the runs were tested on different images or classes; compare runs of one data set and split"
    )
    ((num_images, num_classes),) = shapes
    return num_images, num_classes


def _weights(generator: np.random.Generator, resamples: int, num_images: int) -> Array:
    """Return how often each image is drawn in each resample: (R, N)."""
    drawn = generator.integers(num_images, size=(resamples, num_images))
    drawn += num_images * np.arange(resamples)[:, None]
    counted = np.bincount(drawn.ravel(), minlength=resamples * num_images)
    return counted.reshape(resamples, num_images).astype(np.float64)


def _mean(iou: Array) -> Array:
    """Return the mean over the classes that occur: (..., K) -> (...)."""
    is_known = ~np.isnan(iou)
    return np.where(is_known, iou, 0).sum(axis=-1) / np.maximum(is_known.sum(axis=-1), 1)


def _draws(measured: Array, resampled: Array, seed: int) -> Array:
    """Return draws of the quantity: images from the resamples, the error of the seeds' mean from Student's t.

    Shapes:
        measured (S,), resampled (S, R) -> (R,)
    """
    draws = resampled.mean(axis=0)
    num_seeds = len(measured)
    if num_seeds == 1:
        return draws
    generator = np.random.default_rng([seed, 1])
    error = measured.std(ddof=1) / np.sqrt(num_seeds)
    return draws + error * generator.standard_t(num_seeds - 1, size=len(draws))


def _estimate(measured: Array, resampled: Array, seed: int, is_difference: bool = False) -> Estimate:
    value = float(measured.mean())
    draws = _draws(measured, resampled, seed)
    draws = draws[np.isfinite(draws)]  # a rare class may be in no drawn image
    if not len(draws) or np.isnan(value):
        return Estimate(float("nan"), float("nan"), float("nan"), 1.0)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, (tail, 1 - tail))
    if not is_difference:
        return Estimate(value, max(float(low), 0.0), min(float(high), 1.0))
    # how often a draw lies on the other side of zero; never 0, since so few draws cannot show that
    beyond = min((draws <= 0).sum(), (draws >= 0).sum())
    return Estimate(value, float(low), float(high), min(1.0, 2 * (float(beyond) + 1) / (len(draws) + 1)))


class Bootstrap:
    """Networks measured on the same images, drawn again: images by resampling, which all networks share.

    Args:
        runs: network -> counts of its runs, one per seed, all on the same images.
        resamples: draws of the bootstrap.
        seed: of the draws; the same gives the same intervals.

    Raises:
        InputError: if the networks were tested on different images or classes.

    Shapes:
        measured: network -> (S, K); drawn: network -> (S, R, K) float32, IoU of every class, NaN where it has no pixel
    """

    def __init__(self, runs: Mapping[str, Sequence[Counts]], *, resamples: int = 10_000, seed: int = 0) -> None:
        num_images, num_classes = _check(runs)
        self.seed, self.num_classes = seed, num_classes
        self.measured = {name: np.stack([counts.iou() for counts in seeds]) for name, seeds in runs.items()}
        self.drawn = {name: np.empty((len(seeds), resamples, num_classes), np.float32) for name, seeds in runs.items()}
        generator = np.random.default_rng(seed)
        step = max(_AT_ONCE // num_images, 1)
        for start in range(0, resamples, step):
            weights = _weights(generator, min(step, resamples - start), num_images)
            for name, seeds in runs.items():
                for index, counts in enumerate(seeds):
                    part = counts.iou(weights).reshape(len(weights), -1)
                    self.drawn[name][index, start : start + len(weights)] = part

    def scores(self) -> dict[str, Estimate]:
        """Return the mIoU of every network, as a fraction, with its interval."""
        return {
            name: _estimate(_mean(measured), _mean(self.drawn[name]), self.seed)
            for name, measured in self.measured.items()
        }

    def class_scores(self) -> list[dict[str, Estimate]]:
        """Return for every class the IoU of every network with its interval."""
        return [
            {name: _estimate(iou[:, k], self.drawn[name][..., k], self.seed) for name, iou in self.measured.items()}
            for k in range(self.num_classes)
        ]

    def differences(self) -> list[Difference]:
        """Return every pair of networks with the difference of their mIoU.

        Networks with different numbers of seeds are compared on those that both have.
        """
        return corrected(self._pairs(_mean))

    def class_differences(self) -> list[list[Difference]]:
        """Return for every class the pairs with the difference of its IoU; p is corrected over all classes together."""
        found = [self._pairs(lambda iou, k=k: iou[..., k]) for k in range(self.num_classes)]
        together = iter(corrected([pair for pairs in found for pair in pairs]))
        return [[next(together) for _ in pairs] for pairs in found]

    def _pairs(self, quantity: Callable[[Array], Array]) -> list[Difference]:
        found: list[Difference] = []
        for first, second in combinations(self.measured, 2):
            both = min(len(self.measured[first]), len(self.measured[second]))
            gap, drawn = (
                quantity(values[first][:both]) - quantity(values[second][:both])
                for values in (self.measured, self.drawn)
            )
            found.append(Difference(first, second, _estimate(gap, drawn, self.seed, is_difference=True), both))
        return found


def corrected(found: Sequence[Difference]) -> list[Difference]:
    """Return the differences with p-values corrected for their number by Holm's method, in the same order."""
    order = sorted(range(len(found)), key=lambda i: found[i].estimate.p)
    adjusted = [0.0] * len(found)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(found) - rank) * found[index].estimate.p))
        adjusted[index] = largest
    return [replace(d, estimate=replace(d.estimate, p=p)) for d, p in zip(found, adjusted, strict=True)]
