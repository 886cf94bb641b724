"""How many pixels of each class each image has, and what training makes of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from segcore.data.base import SegmentationDataset

_ENET = 1.02
"""ENet, arXiv 1606.02147, section 5.2: the constant that keeps the weights between 1 and 50."""


def count_pixels(
    dataset: SegmentationDataset, *, workers: int = 4, progress: Callable[[], None] | None = None
) -> np.ndarray:
    """Return the labeled pixels of every class in every image, (N, K) int64.

    Args:
        workers: threads; decoding releases the interpreter.
        progress: called after each image.

    Raises:
        InputError: if a label is missing or cannot be used.
    """
    num_classes = len(dataset.classes.names)
    counts = np.zeros((len(dataset), num_classes), np.int64)

    def read(index: int) -> np.ndarray:
        return np.bincount(dataset.load_label(index).ravel(), minlength=256)[:num_classes]

    pool = ThreadPoolExecutor(max(workers, 1))
    try:
        for index, row in enumerate(pool.map(read, range(len(dataset)))):
            counts[index] = row
            if progress is not None:
                progress()
    finally:
        pool.shutdown(cancel_futures=True)
    return counts


def _shares(counts: np.ndarray) -> np.ndarray:
    """Return the share of each class of all labeled pixels, (K,); zeros where nothing is labeled."""
    pixels = counts.sum(axis=0)
    return pixels / max(int(pixels.sum()), 1)


def balanced_weights(counts: np.ndarray) -> tuple[float, ...]:
    """Return the weight of each class: ENet's 1 / ln(1.02 + share), divided by its mean over the labeled pixels."""
    shares = _shares(counts)
    weights = 1 / np.log(_ENET + shares)
    return tuple(np.round(weights / (weights @ shares if shares.any() else 1), 4).tolist())


def rare_chances(counts: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probability that an image is drawn for each class, (K,) float64: ~ exp((1 - share) / temperature).

    Classes that never occur have none (rare class sampling, DAFormer, arXiv 2111.14887, section 3.3).
    """
    exponents = np.where(counts.any(axis=0), -_shares(counts) / temperature, -np.inf)
    chances = np.exp(exponents - exponents.max())
    return chances / chances.sum()
