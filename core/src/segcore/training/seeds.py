"""The seed of a step's random layers, a pure function of the run's seed, the process and the iteration."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np


def _sequence(seed: int, rank: int, iteration: int) -> int:
    return int(np.random.SeedSequence(seed, spawn_key=(rank, iteration)).generate_state(1, np.uint64)[0])


def _tuple_hash(seed: int, rank: int, iteration: int) -> int:
    return hash((seed, rank, iteration)) % 2**63


SEED_RULE = "seed sequence"
"""The rule of a new run: numpy's, the same in every Python."""
SEED_RULES: Mapping[str, Callable[[int, int, int], int]] = {SEED_RULE: _sequence, "tuple hash": _tuple_hash}
"""Rule -> function of (seed of the run, rank, iteration)."""
OLD_SEED_RULE = "tuple hash"
"""The rule of states that name none: a detail of CPython, kept so that they go on bit-equal."""
