"""Inputs of the core parity cases: every array is named by a generator call.

A case stores calls such as ``{"pixels": [[37, 53, 3], 4]}``; ``make`` turns a
call into its array. NumPy's legacy ``RandomState`` stream is frozen, so the
arrays never change.
"""

from __future__ import annotations

import numpy as np

from tests.parity.fill import fill, image, labels


def pixels(shape: list[int], seed: int) -> np.ndarray:
    """Return a uint8 image (H, W, C): smooth waves plus noise."""
    h, w, c = shape
    rng = np.random.RandomState(seed)
    y, x = np.mgrid[:h, :w]
    waves = [96 * np.sin(y * a + b) * np.cos(x * d + e) + 128 for a, b, d, e in rng.rand(c, 4) * [0.4, 6, 0.4, 6]]
    noise = rng.randint(-31, 32, (h, w, c))
    return np.clip(np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)


def classes(shape: list[int], values: list[int], seed: int, cell: int = 5) -> np.ndarray:
    """Return an int64 label map (H, W) of cells, each filled with one of ``values``."""
    h, w = shape
    rng = np.random.RandomState(seed)
    picked = rng.randint(0, len(values), (-(-h // cell), -(-w // cell)))
    return np.asarray(values)[picked].repeat(cell, 0).repeat(cell, 1)[:h, :w].astype(np.int64)


def prediction(shape: list[int], values: list[int], seed: int, cell: int = 5, wrong: float = 0.3) -> np.ndarray:
    """Return ``classes(shape, values, seed, cell)`` with a share of pixels redrawn."""
    base = classes(shape, values, seed, cell)
    rng = np.random.RandomState(seed + 1000)
    redraw = rng.rand(*shape) < wrong
    return np.where(redraw, np.asarray(values)[rng.randint(0, len(values), shape)], base)


def normal(shape: list[int], seed: int, scale: float = 1.0) -> np.ndarray:
    """Return Gaussian float32 values."""
    return (scale * np.random.RandomState(seed).randn(*shape)).astype(np.float32)


def weights(name: str, shape: list[int]) -> np.ndarray:
    """Return the parameter ``name`` as ``fill`` draws it."""
    return fill(name, tuple(shape))


def blocks(shape: list[int], num_classes: int, ignore: int = 255, seed: int = 1) -> np.ndarray:
    """Return labels (N, H, W) as ``labels`` draws them."""
    return labels(tuple(shape), num_classes, ignore, seed)


def gaussian_image(shape: list[int], seed: int) -> np.ndarray:
    """Return a normalised image batch as ``image`` draws it."""
    return image(tuple(shape), seed)


def make(call: dict) -> np.ndarray:
    """Build the array of one ``{generator: arguments}`` call."""
    ((name, arguments),) = call.items()
    return globals()[name](*arguments)
