"""SIGTERM, Slurm's SIGUSR1 and Ctrl-C during training: remembered until the loop can save."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from segcore import distributed

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
"""SIGUSR1 is what Slurm is asked to send before the time is over (`--signal=USR1@120`); Windows has none."""
STOP_CHECK = 10
"""Iterations between two agreements of several GPUs on whether one was asked to stop: each waits for the GPU."""
SAME_SIGNAL = 2.0
"""Seconds in which repeated signals count as one."""


class StopSignal:
    """Remembers SIGTERM, SIGUSR1 or Ctrl-C until the loop reaches a place where it can save.

    A second Ctrl-C ends at once, unless something is being saved, or it comes with the first one: torchrun and
    terminals both pass signals on.
    """

    def __init__(self) -> None:
        self.number = 0
        self._agent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else 0
        self._since = 0.0
        self._is_saving = False

    def _remember(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if not self.number:
            self.number, self._since = number, now
        elif number == signal.SIGINT and not self._is_saving and now - self._since > SAME_SIGNAL:
            raise KeyboardInterrupt

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Let no signal end the block, nor the death of a loader process, which torch raises wherever Python is."""
        self._is_saving = True
        child = getattr(signal, "SIGCHLD", None) if threading.current_thread() is threading.main_thread() else None
        before = None if child is None else signal.signal(child, signal.SIG_DFL)  # the next batch tells as well
        try:
            yield
        finally:
            self._is_saving = False
            if child is not None:
                signal.signal(child, signal.SIG_DFL if before is None else before)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals inside the block (only possible in the main thread)."""
        try:
            before = {number: signal.signal(number, self._remember) for number in _SIGNALS}
        except ValueError:  # not the main thread: whoever started it handles the signals
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def agreed(self, iteration: int, world: distributed.World) -> int:
        """Return the signal to stop for, the same on every process; 0 to go on."""
        if world.size == 1:
            return self.number
        if world.device.type != "cpu" and iteration % STOP_CHECK:
            return 0
        if self._agent and os.getppid() != self._agent:  # torchrun was killed: nobody would end or restart this process
            self.number = self.number or signal.SIGTERM
        flag = torch.tensor(self.number, device=world.device)
        return int(distributed.all_reduce_max(flag).item())
