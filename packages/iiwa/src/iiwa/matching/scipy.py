"""Window matching by SciPy: the images of a batch side by side on the processor's cores."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from segcore.errors import InputError


def match(similarity: Tensor) -> Tensor:
    """Return the memory window of every query window; see `iiwa.matching.op.match_windows`.

    The batch comes from the device in one copy, and its assignment goes back in one.

    Shapes:
        (B, n_q, n_k), B >= 1 -> (B, n_q) int64

    Raises:
        InputError: for NaN or infinite similarities.
    """
    host = similarity.cpu().numpy()
    if not np.isfinite(host).all():
        raise InputError(
            "window matching: similarities of windows are NaN or infinite, finite features were expected; the weights "
            "have diverged: start again from a good checkpoint, with a lower optim.lr or without mixed precision"
        )
    run = map if len(host) == 1 else _pool(os.getpid()).map
    columns = list(run(_best_columns, host))  # the solver releases the interpreter lock
    return torch.from_numpy(np.stack(columns)).to(similarity.device)


def _best_columns(similarity: np.ndarray) -> np.ndarray:
    """Return for one image (n_q, n_k) the column of every row; rows come back in order, since n_q <= n_k."""
    return linear_sum_assignment(similarity, maximize=True)[1].astype(np.int64, copy=False)


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Return the threads of a process, by its number: a forked child has its parent's pool, but none of its threads."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="match-windows")
