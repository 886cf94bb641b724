"""Parity adapter of MemoryNet: picks the comparisons of a case by what it holds."""

from __future__ import annotations

from collections.abc import Iterator

from tests.parity.case_files import Comparison, ParityCase
from tests.parity.memorynet import network as parity_network
from tests.parity.memorynet import parts as parity_parts
from tests.parity.memorynet import test_time as parity_test_time

_COMPARISONS = {
    "config": parity_network.compare,
    "memory_before": parity_parts.compare_updates,
    "coarse_logits": parity_parts.compare_object_context,
    "schedules": parity_parts.compare_schedules,
    "inference": parity_test_time.compare,
}


def compare(case: ParityCase) -> Iterator[Comparison]:
    """Yield our value beside the published one, in the order of computation."""
    entries = {*case.data, *case.data.get("input", ())}
    kind = next(kind for kind in _COMPARISONS if kind in entries)
    yield from _COMPARISONS[kind](case)
