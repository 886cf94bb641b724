"""Activation checkpointing: blocks keep their input only, and run again in the backward pass (`--run.recompute`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from segcore.errors import check

_LISTS = (nn.Sequential, nn.ModuleList)


def recompute_blocks(backbone: nn.Module) -> None:
    """Let the blocks of a network run again in the backward pass, in place. Names of tensors stay.

    Blocks are the parts of its lists (`nn.Sequential`, `nn.ModuleList`) that have parts themselves: residual blocks,
    transformer blocks. Random numbers are the same in both runs, and running statistics move once.

    Raises:
        InputError: if it has none.
    """
    blocks = list(_blocks(backbone))
    check(bool(blocks), "--run.recompute needs a backbone that is built of blocks; this one has none")
    for block in blocks:
        block.forward = partial(_forward, block, block.forward)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        has_parts = next(child.children(), None) is not None and next(child.parameters(), None) is not None
        if isinstance(module, _LISTS) and not isinstance(child, _LISTS) and has_parts:
            yield child
        else:
            yield from _blocks(child)


def _forward(block: nn.Module, forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*inputs, **options)
    contexts = partial(_contexts, block)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **options)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Return what surrounds the first run of a block and its second one."""
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Leave running statistics as they are inside the `with` block: the first run has moved them."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    kept = [(norm, norm.momentum) for norm in norms]
    counters = [(counter, counter.clone()) for norm in norms if (counter := norm.num_batches_tracked) is not None]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in kept:
            norm.momentum = momentum
        for counter, value in counters:
            counter.copy_(value)
