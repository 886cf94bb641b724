"""What torch and the system raise where memory ends or a process of the run is gone, made one sentence each."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from segcore.errors import InputError
from segcore.opencv import cv2

_RAISED = (RuntimeError, MemoryError, OSError, cv2.error)
_NO_MEMORY = re.compile(
    "can't allocate memory|out of memory|not enough memory|Insufficient memory|MemoryError|ALLOC_FAILED|bad_alloc"
)
"""In the messages of torch's allocators, CUDA's libraries, OpenCV, and what loader processes hand over as text."""
_KILLED = re.compile(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (?:is killed by signal: ([\w ]+)|exited)")
_PEER = re.compile(r"gloo/transport|NCCL|closed by peer", re.IGNORECASE)


def testing_memory(name: str, size: tuple[int, int]) -> str:
    """Return which options decide how much memory an image (height, width) needs."""
    return (
        f"at the image {name} of {size[1]}x{size[0]} pixels (width x height); lower --evaluate.scale or "
        "--evaluate.window-batch, set --evaluate.mode slide, or --run.amp bf16"
    )


def explain(error: BaseException, memory: str = "", kept: str = "") -> str | None:
    """Return the sentence about an error that no code of ours raised; None where it is something else.

    Args:
        memory: where memory ended and which options need less, for that case.
        kept: what is left of the work, and how to go on.
    """
    text = str(error)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or _is_no_memory(error, text):
        sentence = f"out of memory{' of the GPU' if isinstance(error, torch.OutOfMemoryError) else ''}"
        return "; ".join(filter(None, (f"{sentence} {memory}".strip(), kept)))
    killed = _KILLED.search(text)
    if killed:
        how = f" (signal: {killed[1]})" if killed[1] else ""
        cause = "shared memory (/dev/shm) is full" if killed[1] == "Bus error" else "memory ran out"
        return "; ".join(
            filter(None, (f"a loader process was killed{how}, usually because {cause}: lower --data.workers", kept))
        )
    if "inline_container" in text and error.__context__ is not None:  # torch's writer of archives hides what stopped it
        return explain(error.__context__, memory, kept)
    if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and _PEER.search(text)):
        return "another process of this run stopped; its message says why"
    return None


def _is_no_memory(error: BaseException, text: str) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, _RAISED) and _NO_MEMORY.search(text) is not None


@contextmanager
def explained(*, memory: str = "", kept: str = "") -> Iterator[None]:
    """Raise the sentence of `explain` in place of the error, where there is one.

    Raises:
        InputError: with it.
    """
    try:
        yield
    except _RAISED as error:
        sentence = explain(error, memory, kept)
        if sentence is None:
            raise
        raise InputError(sentence) from error
