"""Parity adapter of core: picks the comparisons of a case by its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.parity.case_files import Comparison, ParityCase
from tests.parity.core import inference, losses, metrics, training, transforms

_KINDS: dict[str, Callable[[ParityCase], Iterator[Comparison]]] = {
    "transform": transforms.compare,
    "labels": transforms.encodings,
    "inference": inference.compare,
    "metrics": metrics.compare,
    "visual": metrics.overlays,
    "loss": losses.compare,
    "module": losses.heads,
    "schedule": training.schedules,
    "param_groups": training.rules,
    "param_groups_full": training.groups,
    "checkpoint": training.checkpoints,
}


def compare(case: ParityCase) -> Iterator[Comparison]:
    """Yield our value beside the published one, in the order of computation."""
    yield from _KINDS[case.data["kind"]](case)
