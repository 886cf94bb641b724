"""What a computation costs: processor time and memory of the process, or time and memory of a GPU."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from segcore.layers.precision import training_precision
from segcore.layers.replay import RECORD_AFTER
from segcore.memory import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, keep_freed_memory

MIB = 1 << 20
_PR_SET_THP_DISABLE = 41
_LARGEST_HEAP_BLOCK = 32 << 20
Call = Callable[[], object]


class Meter(ABC):
    """Measures calls of two sides in turns: ours, and one that treats its memory as any process does."""

    device: torch.device
    title: str
    """What the numbers are, for the reader of the table."""

    @abstractmethod
    def seconds(self, call: Call, *, is_ours: bool) -> float:
        """Return how long a call takes after one that is not measured."""

    @abstractmethod
    def peak(self, call: Call, *, is_ours: bool) -> float:
        """Return the most memory that is held during a call beyond what was held before it, MiB."""


class ProcessMeter(Meter):
    """Processor time and memory of this process; Linux."""

    device = torch.device("cpu")

    @property
    def title(self) -> str:
        """What the numbers are; to be asked for before the run, since it holds the load."""
        load = os.getloadavg()[0]
        return (
            f"float32, {torch.get_num_threads()} thread of {os.cpu_count()} cores, load average {load:.1f} before the "
            "run. Processor time"
        )

    def seconds(self, call: Call, *, is_ours: bool) -> float:
        """Return processor time."""
        manage_memory(is_kept=is_ours)
        call()
        started = time.process_time()
        call()
        return time.process_time() - started

    def peak(self, call: Call, *, is_ours: bool) -> float:
        """Return the growth of the resident set."""
        manage_memory(is_kept=is_ours)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _kilobytes("VmRSS")
        call()
        return (_kilobytes("VmHWM") - before) / 1024


class GpuMeter(Meter):
    """Time until the GPU is done, and what torch takes of its memory, the gaps of its heap included."""

    device = torch.device("cuda")

    def __init__(self, *, is_training: bool) -> None:
        self._is_training = is_training
        self._started: set[Call] = set()

    def _precision(self) -> AbstractContextManager[None]:
        """Allow TF32 where our commands and the torch of those years do: all of training, in tests convolutions."""
        return training_precision(self.device, allow_tf32=True) if self._is_training else nullcontext()

    @property
    def title(self) -> str:
        """What the numbers are."""
        return (
            f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Python {platform.python_version()}; TF32 "
            "allowed in steps, and in the convolutions of tests. Time until the GPU is done"
        )

    def seconds(self, call: Call, *, is_ours: bool) -> float:
        """Return wall-clock time; what is replayed was recorded before."""
        del is_ours
        is_new = call not in self._started
        self._started.add(call)
        with self._precision():
            for _ in range(RECORD_AFTER if is_new else 1):
                call()
            torch.cuda.synchronize()
            started = time.perf_counter()
            call()
            torch.cuda.synchronize()
            return time.perf_counter() - started

    def peak(self, call: Call, *, is_ours: bool) -> float:
        """Return the growth of what is reserved, over as many calls as it takes until all is recorded."""
        del is_ours
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with self._precision():
            for _ in range(RECORD_AFTER + 1):
                call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_reserved() - before) / MIB


def manage_memory(*, is_kept: bool) -> None:
    """Treat freed memory as the commands do, or as a process does by itself, and start without any; Linux."""
    libc = ctypes.CDLL(None)
    gc.collect()
    libc.malloc_trim(0)
    if is_kept:
        keep_freed_memory()
    else:  # where glibc's own rule arrives after a few large tensors
        libc.mallopt(M_MMAP_THRESHOLD, _LARGEST_HEAP_BLOCK)
        libc.mallopt(M_TRIM_THRESHOLD, 2 * _LARGEST_HEAP_BLOCK)
    libc.prctl(_PR_SET_THP_DISABLE, int(not is_kept), 0, 0, 0)


def _kilobytes(entry: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry))
