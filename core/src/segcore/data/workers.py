"""Loader processes: how they start and end, and how a file that cannot be used is reported from them."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import TypeVar

import torch

from segcore.errors import InputError
from segcore.opencv import cv2

WORKER_GRACE = 60
"""Seconds that a loader process goes on after SIGTERM, while its parent saves."""
_END = 3.0
"""Seconds that a loader process has to end when its parent needs it no more."""
_ALARM = getattr(signal, "SIGALRM", None)  # Windows has none
Item = TypeVar("Item")


def raise_faults(loader: Iterable[Item | InputError]) -> Generator[Item, None, None]:
    """Yield what a loader yields, and raise the errors among it; `close` ends the loader processes at once.

    Loader processes hand an `InputError` over as a value: torch would turn a raised one into a traceback as text.
    """
    others = set(active_children())
    items = iter(loader)
    workers = [child for child in active_children() if child not in others]
    try:
        while True:
            try:
                item = next(items)
            except StopIteration:
                return
            except Exception as error:
                _blame_the_dead(workers, error)
                raise
            if isinstance(item, InputError):
                raise item
            yield item
    finally:
        _end(workers)


def _blame_the_dead(workers: Sequence[BaseProcess], error: Exception) -> None:
    """Raise what torch says of a loader process that is gone, where that is why a batch could not be handed over.

    Torch notices it itself but in the middle of the handing over, which fails in many ways.
    """
    for worker in workers:
        worker.join(0.5 / len(workers))
        if not worker.is_alive():
            raise RuntimeError(f"DataLoader worker (pid {worker.pid}) exited") from error


def _end(workers: Sequence[BaseProcess]) -> None:
    """End loader processes now; torch, and Python on its way out, would send SIGTERM and wait for the grace."""
    for worker in workers:
        if not worker.is_alive() or worker.pid is None:
            continue
        if _ALARM is None:
            worker.terminate()
        else:
            os.kill(worker.pid, _ALARM)
    for worker in workers:
        with suppress(RuntimeError):  # torch's handler: it takes a process that had just begun, or hung, for killed
            worker.join(_END)
            if worker.is_alive():  # in code that does not listen, e.g. of a decoder
                worker.kill()
                worker.join()


def quiet_worker(_: int) -> None:
    """Prepare a loader process: one thread, signals that mean the run left to the parent, which saves and ends it."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A cluster's SIGTERM reaches the whole process group: the batches that the parent is about to use must still come.
    # A worker that hangs goes after the grace, one that the parent needs no more at once. Windows has no such signals.
    if _ALARM is not None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_GRACE))
        signal.signal(_ALARM, lambda *_: os._exit(0))
