"""Parity adapter of UN-EPT: picks the comparisons of a case by what it holds."""

from __future__ import annotations

from collections.abc import Iterator

from tests.parity.case_files import Comparison, ParityCase
from tests.parity.unept import modules, networks, training

_MODULES = {
    "msda-op": modules.operator,
    "msda": modules.attention,
    "sine": modules.sine,
    "pos_embed": modules.position_table,
    "encoder_layer": modules.encoder_layer,
    "decoder_layer": modules.decoder_layer,
    "context_branch": modules.context_branch,
    "spatial_branch": modules.spatial_branch,
    "losses": training.losses,
}


def compare(case: ParityCase) -> Iterator[Comparison]:
    """Yield our value beside the published one, in the order of computation."""
    variant = case.data["variant"]
    if variant in _MODULES:
        yield from _MODULES[variant](case)
    elif "grad_norms" in case.data:
        yield from training.network(case)
    elif "window" in case.data:
        yield from networks.sliding_windows(case)
    else:
        yield from networks.stages(case)
