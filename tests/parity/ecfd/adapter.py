"""Parity adapter of ECFD: picks the comparisons of a case by what it holds."""

from __future__ import annotations

from collections.abc import Iterator

from tests.parity.building import labelled
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.ecfd import attention, networks


def compare(case: ParityCase) -> Iterator[Comparison]:
    """Yield our value beside the published one, in the order of computation."""
    if "state_dict" not in case.data:
        compare_kind = attention.compare_operator
    elif "d_model" in case.data["config"]:
        compare_kind = attention.compare_module
    else:
        compare_kind = networks.compare_network if "backbone" in case.data else networks.compare_head
    yield from labelled(case, compare_kind(case))
