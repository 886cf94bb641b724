"""How long a call takes on a device, and what the device is."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def median_seconds(run: Callable[[], None], runs: int, device: torch.device) -> float:
    """Return the median seconds of a call, finished on the device, after two calls that are not measured."""
    wait = (lambda: None) if device.type == "cpu" else torch.accelerator.synchronize
    seconds = []
    for _ in range(runs + 2):
        wait()
        started = time.perf_counter()
        run()
        wait()
        seconds.append(time.perf_counter() - started)
    return sorted(seconds[2:])[runs // 2]


def processor(device: torch.device) -> str:
    """Return the name of what computes."""
    if device.type == "cpu":
        return f"{torch.get_num_threads()} CPU threads"
    return "Apple GPU" if device.type == "mps" else torch.get_device_module(device).get_device_name(device)
