"""Documents as somebody writes them who wants to break what reads them, from a seed."""

from __future__ import annotations

import copy
import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tests.faults.damage import damaged

MEMORY = 12 << 30
"""Bytes of address space of a command in these tests."""
SECONDS = 10.0
"""Longest time of one command (issue 18: no hang over 10 s)."""

VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    2**64,
    10**400,
    0.5,
    float("inf"),
    float("nan"),
    "",
    "x" * 300,
    "nul\0",
    "\ud800",
    "[/b] \x1b[31m",
    "../../escaped",
    [],
    {},
    [[]],
    [1, "2", None],
    {"a": 1},
    {"": {}},
)
"""What stands in a place where something else belongs."""
_DEEP, _DIGITS, _BEYOND = "a deep list", "many digits", "beyond floats"
_TEXTS = {_DEEP: "[" * 20_000 + "]" * 20_000, _DIGITS: "1" * 5000, _BEYOND: "1e400"}
"""What JSON can say and Python's writer does not."""


def _places(document: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if place:
        yield place
    inner = document if isinstance(document, dict) else dict(enumerate(document)) if isinstance(document, list) else {}
    for key, value in inner.items():
        yield from _places(value, (*place, key))


def changed(document: Any, rng: np.random.Generator, values: tuple[Any, ...] = VALUES) -> Any:
    """Return a document with one entry replaced, removed, added or moved."""
    document = copy.deepcopy(document)
    places = list(_places(document))
    *path, key = places[int(rng.integers(len(places)))]
    holder = document
    for step in path:
        holder = holder[step]
    kind = int(rng.integers(8))
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder["unknown"] = holder[key]
    elif kind == 2:
        holder[key] = [holder[key]]
    else:
        holder[key] = values[int(rng.integers(len(values)))]
    return document


def hostile_json(document: Any, seed: int) -> bytes:
    """Return the text of a document that was changed, or damaged as a file."""
    rng = np.random.default_rng(seed)
    if seed % 5 == 4:
        return damaged(json.dumps(document).encode(), seed)
    document = changed(document, rng, (*VALUES, *_TEXTS))
    text = json.dumps(document)
    for name, words in _TEXTS.items():
        text = text.replace(f'"{name}"', words)
    return text.encode()


@contextmanager
def bounded() -> Iterator[None]:
    """Fail where the block takes too long; memory ends early, so that taking all of it shows."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, before[1]))
    since = time.monotonic()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.monotonic() - since < SECONDS
