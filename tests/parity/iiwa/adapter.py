"""Parity adapter of IIWA: builds the block, backbone or loss of a case and compares it with the published values."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.parity.building import labelled, settled
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.iiwa import blocks, training


def compare(case: ParityCase) -> Iterator[Comparison]:
    """Yield our value beside the published one, in the order of computation."""
    modules: dict[str, Callable[[ParityCase], Iterator[Comparison]]] = {
        "PositionEmbeddingSine": blocks.position,
        "WindowAttention": blocks.self_attention,
        "WindowCrossAttention": blocks.cross_attention,
        "TransFusion": blocks.fusion,
        "TransFusion2": blocks.fusion,
        "cascade of TransFusion": blocks.neck,
        "cascade of TransFusion2": blocks.neck,
        "SwinTransformer": blocks.swin,
        "loss": training.loss,
        "optimizer": training.groups,
    }
    module = case.data["module"]
    if module != "loss":
        settled(case.data, num_classes=None)  # neither a block nor the rules of the optimizer has classes
    yield from labelled(case, modules[module](case))
