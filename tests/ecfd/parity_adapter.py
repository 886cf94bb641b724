"""Parity adapter of ECFD: picks the comparisons of a case by what it holds."""

from __future__ import annotations

from collections.abc import Iterator

from tests.ecfd import parity_attention, parity_networks
from tests.parity.cases import Comparison, ParityCase


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
