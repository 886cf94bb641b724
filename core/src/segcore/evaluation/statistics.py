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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from segcore.errors import check

Array = NDArray[np.float64]
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
    """

    first: str
    second: str
    estimate: Estimate

    @property
    def is_significant(self) -> bool:
        """Whether the two differ at the 5 % level, over all comparisons together."""
        return self.estimate.p < 1 - LEVEL


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
    return generator.multinomial(num_images, np.full(num_images, 1 / num_images), size=resamples).astype(np.float64)


def _resampled(runs: Mapping[str, Sequence[Counts]], resamples: int, seed: int) -> dict[str, Array]:
    """Return the IoU of every network, seed, resample and class: (S, R, K) each; all share the drawn images."""
    num_images, num_classes = _check(runs)
    generator = np.random.default_rng(seed)
    result = {name: np.empty((len(seeds), resamples, num_classes)) for name, seeds in runs.items()}
    step = max(_AT_ONCE // num_images, 1)
    for start in range(0, resamples, step):
        weights = _weights(generator, min(step, resamples - start), num_images)
        for name, seeds in runs.items():
            for index, counts in enumerate(seeds):
                result[name][index, start : start + len(weights)] = counts.iou(weights).reshape(len(weights), -1)
    return result


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
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, (tail, 1 - tail))
    if not is_difference:
        return Estimate(value, float(low), float(high))
    # how often a draw lies on the other side of zero; never 0, since so few draws cannot show that
    beyond = min((draws <= 0).sum(), (draws >= 0).sum())
    return Estimate(value, float(low), float(high), min(1.0, 2 * (float(beyond) + 1) / (len(draws) + 1)))


def scores(runs: Mapping[str, Sequence[Counts]], *, resamples: int = 10_000, seed: int = 0) -> dict[str, Estimate]:
    """Return the mIoU of every network, as a fraction, with its interval.

    Args:
        runs: network -> counts of its runs, one per seed, all on the same images.
        resamples: draws of the bootstrap.
        seed: of the draws; the same gives the same intervals.

    Raises:
        InputError: if the networks were tested on different images or classes.
    """
    drawn = _resampled(runs, resamples, seed)
    return {
        name: _estimate(np.asarray([_mean(counts.iou()) for counts in seeds]), _mean(drawn[name]), seed)
        for name, seeds in runs.items()
    }


def differences(
    runs: Mapping[str, Sequence[Counts]], *, of_class: int | None = None, resamples: int = 10_000, seed: int = 0
) -> list[Difference]:
    """Return every pair of networks with the difference of their mIoU, or of the IoU of one class.

    Networks with different numbers of seeds are compared on those that both have.

    Args:
        of_class: number of the class; None takes the mean over classes.

    Raises:
        InputError: if the networks were tested on different images or classes.
    """
    drawn = _resampled(runs, resamples, seed)

    def quantity(iou: Array) -> Array:
        return _mean(iou) if of_class is None else iou[..., of_class]

    measured = {name: np.asarray([quantity(c.iou()) for c in seeds]) for name, seeds in runs.items()}
    resampled = {name: quantity(values) for name, values in drawn.items()}
    found: list[Difference] = []
    for first, second in combinations(runs, 2):
        both = min(len(measured[first]), len(measured[second]))
        gap = measured[first][:both] - measured[second][:both]
        drawn_gap = resampled[first][:both] - resampled[second][:both]
        found.append(Difference(first, second, _estimate(gap, drawn_gap, seed, is_difference=True)))
    return corrected(found)


def corrected(found: Sequence[Difference]) -> list[Difference]:
    """Return the differences with p-values corrected for their number by Holm's method, in the same order."""
    order = sorted(range(len(found)), key=lambda i: found[i].estimate.p)
    adjusted = [0.0] * len(found)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(found) - rank) * found[index].estimate.p))
        adjusted[index] = largest
    return [
        Difference(d.first, d.second, Estimate(d.estimate.value, d.estimate.low, d.estimate.high, p))
        for d, p in zip(found, adjusted, strict=True)
    ]
