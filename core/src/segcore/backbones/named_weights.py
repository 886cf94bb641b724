"""Fills a backbone from a weights file in another project's tensor names, strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from segcore.errors import InputError
from segcore.weights.files import read_checkpoint
from segcore.weights.names import NameMap

_PREFIX = "backbone."


def read_backbone_tensors(path: str) -> dict[str, Tensor]:
    """Read the tensors of a classifier's file; of one whose names begin with `backbone.`, that part without it.

    Raises:
        InputError: if the file is absent, damaged or would run code.
    """
    tensors = read_checkpoint(path).tensors
    inner = {name.removeprefix(_PREFIX): value for name, value in tensors.items() if name.startswith(_PREFIX)}
    return inner or dict(tensors)


def load_named(
    backbone: nn.Module,
    name: str,
    weights: str,
    tensors: Mapping[str, Tensor],
    name_map: NameMap,
    new: tuple[str, ...] = (),
) -> None:
    """Fill a backbone with tensors of other names.

    Args:
        name, weights: model and file, for the error.
        name_map: from our names to those of `tensors`.
        new: prefixes of OUR names that a classifier's weights lack; what is absent keeps its initial values.

    Raises:
        InputError: if anything else is missing, or anything unexpected or of another shape.
    """
    match = name_map.match(backbone, tensors)
    may_lack = {name_map.to_published(key) for key in backbone.state_dict() if key.startswith(new)}
    missing = tuple(key for key in match.missing if key not in may_lack)
    problem = replace(match, missing=missing).problem()
    if problem:
        raise InputError(f"--model.weights {weights} does not fit {name}: {problem}")
    backbone.load_state_dict(match.tensors, strict=False)  # what may be missing was settled above
