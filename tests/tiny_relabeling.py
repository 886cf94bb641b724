"""Conversions that worker processes of the tests run; a light module, since every worker imports it."""

from __future__ import annotations

import os

import numpy as np

from segcore.errors import InputError

SIZE = (24, 32)


def relabel_or_fail(path: str, fails: bool) -> np.ndarray:
    """Return a map of fives, or fail as an unusable source does."""
    if fails:
        raise InputError(f"{path} is unusable")
    return np.full(SIZE, 5, np.uint8)


def relabel_and_die() -> np.ndarray:
    """End the process at once, as the system does when memory runs out."""
    os._exit(9)
