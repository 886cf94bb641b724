"""Automatic mixed precision: entering it as a recipe says, and leaving it where a step needs float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from segcore.recipe import AMP


def mixed_precision(device: torch.device, amp: AMP) -> torch.autocast:
    """Return the autocast context of --run.amp; one that changes nothing for off."""
    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=amp != "off")


def full_precision(device_type: str) -> AbstractContextManager[object]:
    """Return a context without autocast; there is none to leave on the meta device, where networks are counted."""
    is_available = torch.amp.is_autocast_available(device_type)
    return torch.autocast(device_type, enabled=False) if is_available else nullcontext()


def memory_format(is_channels_last: bool) -> torch.memory_format:
    """Return the memory format of --run.channels-last."""
    return torch.channels_last if is_channels_last else torch.contiguous_format
