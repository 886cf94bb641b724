"""Parity adapter of MemoryNet: picks the comparisons of a case by what it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.parity.building import labelled
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.memorynet import multiscale, network, parts


def compare(case: ParityCase) -> Iterator[Comparison]:
    """Yield our value beside the published one, in the order of computation."""
    kinds: dict[str, Callable[[ParityCase], Iterator[Comparison]]] = {
        "config": network.compare,
        "memory_before": parts.compare_updates,
        "gather_scale": parts.compare_object_context,
        "inference": multiscale.compare,
    }
    if "schedules" in case.data:
        yield from parts.compare_schedules(case)
    else:
        kind = next(kind for kind in kinds if kind in case.data)
        yield from labelled(case, kinds[kind](case))
