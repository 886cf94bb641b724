"""Parity adapter of UN-EPT: picks the comparisons of a case by what it holds."""

from __future__ import annotations

from collections.abc import Iterator

from tests.parity.case_files import Comparison, ParityCase
from tests.parity.unept import modules as parity_modules
from tests.parity.unept import networks as parity_networks
from tests.parity.unept import training as parity_training

_MODULES = {
    "msda-op": parity_modules.operator,
    "msda": parity_modules.attention,
    "sine": parity_modules.sine,
    "pos_embed": parity_modules.position_table,
    "encoder_layer": parity_modules.encoder_layer,
    "decoder_layer": parity_modules.decoder_layer,
    "context_branch": parity_modules.context_branch,
    "spatial_branch": parity_modules.spatial_branch,
    "losses": parity_training.losses,
}


def compare(case: ParityCase) -> Iterator[Comparison]:
    """Yield our value beside the published one, in the order of computation."""
    variant = case.data["variant"]
    if variant in _MODULES:
        yield from _MODULES[variant](case)
    elif "grad_norms" in case.data:
        yield from parity_training.network(case)
    elif "window" in case.data:
        yield from parity_networks.sliding_windows(case)
    else:
        yield from parity_networks.stages(case)
