"""Parity adapter of core: picks the comparisons of a case by its kind."""

from __future__ import annotations

from collections.abc import Iterator

from tests.parity.case_files import Comparison, ParityCase
from tests.parity.core import evaluation as parity_evaluation
from tests.parity.core import training as parity_training
from tests.parity.core import transforms as parity_transforms

_MODULES = {
    "transform": parity_transforms,
    "labels": parity_transforms,
    "inference": parity_evaluation,
    "metrics": parity_evaluation,
    "loss": parity_evaluation,
    "module": parity_evaluation,
    "visual": parity_evaluation,
    "schedule": parity_training,
    "param_groups": parity_training,
    "param_groups_full": parity_training,
    "checkpoint": parity_training,
}


def compare(case: ParityCase) -> Iterator[Comparison]:
    """Yield our value beside the published one, in the order of computation."""
    yield from _MODULES[case.data["kind"]].compare(case)
