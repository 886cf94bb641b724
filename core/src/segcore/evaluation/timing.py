"""How long a call takes on a device, and what the device is."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from segcore.layers.replay import RECORD_AFTER


def median_seconds(run: Callable[[], None], runs: int, device: torch.device) -> float:
    """Return the median seconds of a call, finished on the device, after two that are not measured.

    On CUDA after as many as it takes until a network of `build.for_inference` is recorded.
    """
    wait = (lambda: None) if device.type == "cpu" else torch.accelerator.synchronize
    seconds = []
    first = RECORD_AFTER if device.type == "cuda" else 2
    for _ in range(runs + first):
        wait()
        started = time.perf_counter()
        run()
        wait()
        seconds.append(time.perf_counter() - started)
    return sorted(seconds[first:])[runs // 2]


def processor(device: torch.device) -> str:
    """Return the name of what computes."""
    if device.type == "cpu":
        return f"{torch.get_num_threads()} CPU threads"
    return "Apple GPU" if device.type == "mps" else torch.get_device_module(device).get_device_name(device)
