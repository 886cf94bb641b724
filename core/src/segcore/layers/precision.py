"""Precision: entering automatic mixed precision as a recipe says, and keeping float32 where a step needs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from segcore.recipe import AMP


def mixed_precision(device: torch.device, amp: AMP) -> torch.autocast:
    """Return the autocast context of --run.amp; one that changes nothing for off."""
    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=amp != "off")


@contextmanager
def training_precision(device: torch.device, allow_tf32: bool) -> Iterator[None]:
    """Allow or forbid TF32 (matrix products of 10 bits of mantissa) within the block, on NVIDIA GPUs only."""
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allow_tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = allow_tf32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def full_precision(device_type: str) -> AbstractContextManager[object]:
    """Return a context without autocast.

    There is none to leave on the meta device, where networks are counted, and in exported graphs, which
    cannot be saved with one.
    """
    is_available = torch.amp.is_autocast_available(device_type) and not torch.compiler.is_exporting()
    return torch.autocast(device_type, enabled=False) if is_available else nullcontext()


def widened(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a layer in the wider type of its input and its parameters.

    So a step that needs float32 keeps it in a network that was made half by `half()` or `bfloat16()`. Where the
    parameters are float32, also under autocast, this is a plain call.
    """
    own = dict(layer.named_parameters())
    dtype = torch.promote_types(x.dtype, next(iter(own.values())).dtype)
    if all(parameter.dtype == dtype for parameter in own.values()):
        return layer(x)
    return torch.func.functional_call(layer, {name: parameter.to(dtype) for name, parameter in own.items()}, (x,))


def memory_format(is_channels_last: bool) -> torch.memory_format:
    """Return the memory format of --run.channels-last."""
    return torch.channels_last if is_channels_last else torch.contiguous_format
