"""Parity adapter of ECFD: picks the comparisons of a case by what it holds."""

from __future__ import annotations

from collections.abc import Iterator

from tests.parity.case_files import Comparison, ParityCase
from tests.parity.ecfd import attention as parity_attention
from tests.parity.ecfd import networks as parity_networks


def compare(case: ParityCase) -> Iterator[Comparison]:
    """Yield our value beside the published one, in the order of computation."""
    if "state_dict" not in case.data:
        yield from parity_attention.compare_operator(case)
    elif "d_model" in case.data["config"]:
        yield from parity_attention.compare_module(case)
    elif "backbone" in case.data:
        yield from parity_networks.compare_network(case)
    else:
        yield from parity_networks.compare_head(case)
