"""Loader processes: how they start, and how a file that cannot be used is reported from them."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

from segcore.errors import InputError
from segcore.opencv import cv2

WORKER_GRACE = 60
"""Seconds that a loader process goes on after SIGTERM, while its parent saves."""
Item = TypeVar("Item")


def raise_faults(loader: Iterable[Item | InputError]) -> Iterator[Item]:
    """Yield what a loader yields, and raise the errors among it.

    Loader processes hand an `InputError` over as a value: torch would turn a raised one into a traceback as text.
    """
    for item in loader:
        if isinstance(item, InputError):
            raise item
        yield item


def quiet_worker(_: int) -> None:
    """Prepare a loader process: one thread, Ctrl-C left to the parent, which saves and stops its workers."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A cluster's SIGTERM reaches the whole process group: the batches that the parent is about to use must still come.
    # A worker that the parent wants to end, or that hangs, goes after the grace. Windows has neither groups nor alarms.
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_GRACE))
