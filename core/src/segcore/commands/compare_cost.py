"""`segcore compare cost`: what a checkpoint's network costs on this machine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from segcore.commands.parsing import parse_options
from segcore.compare.study import COST
from segcore.files import atomic_write
from segcore.weights.header import require_checkpoint

_DESCRIPTION = f"""Measure parameters, multiply-adds and the time of one validation image, and write them as {COST}
beside the checkpoint, where `segcore compare show` finds them."""


@dataclass(frozen=True, kw_only=True)
class CostOptions:
    """What to measure."""

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """Weights of ours (.safetensors)."""


def main(words: list[str]) -> int:
    """Run `segcore compare cost`; returns the exit code.

    Raises:
        InputError: if the checkpoint cannot be used.
    """
    options = parse_options("segcore compare cost", _DESCRIPTION, CostOptions, words)
    weights = Path(options.checkpoint)
    require_checkpoint(weights)
    print(write_cost(weights))
    return 0


def write_cost(weights: Path) -> str:
    """Measure a network and write what was found beside its checkpoint; returns the text.

    Raises:
        InputError: if the checkpoint cannot be used, or its folder refuses.
    """
    from segcore.compare.cost import measure  # torch loads only here, so --help is instant

    text = json.dumps(measure(weights), indent=1)
    with atomic_write(weights.parent / COST) as file:
        file.write(f"{text}\n".encode())
    return text
