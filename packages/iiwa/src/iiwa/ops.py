"""Window matching: which memory window each query window attends to; specs/iiwa 3.5 and section 7."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from segcore.errors import InputError

Backend = Literal["auto", "scipy", "triton"]


def match_windows(similarity: Tensor, backend: Backend = "auto") -> Tensor:
    """Assign every query window a memory window of its own, so that the sum of similarities is largest.

    Args:
        similarity: of every query window to every memory window; not differentiated.

    Shapes:
        (B, n_q, n_k) float32 -> (B, n_q) int64, distinct in every row

    Raises:
        InputError: if there are more query than memory windows.
    """
    _, queries, memories = similarity.shape
    if queries > memories:
        raise InputError(
            f"{queries} query windows cannot be matched with {memories} memory windows one to one; choose a backbone "
            "whose last feature map is not larger than the others together"
        )
    return torch.ops.iiwa.match_windows(similarity.detach().float(), backend)


@torch.library.custom_op("iiwa::match_windows", mutates_args=())
def _match(similarity: Tensor, backend: str) -> Tensor:
    host = np.nan_to_num(similarity.cpu().numpy())  # one copy for the whole batch
    columns = list(_pool().map(_best_columns, host))  # the solver releases the interpreter lock
    return torch.from_numpy(np.stack(columns)).to(similarity.device)


@_match.register_fake
def _(similarity: Tensor, backend: str) -> Tensor:
    return similarity.new_empty(similarity.shape[:2], dtype=torch.int64)


def _best_columns(similarity: np.ndarray) -> np.ndarray:
    return linear_sum_assignment(similarity, maximize=True)[1].astype(np.int64)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="match-windows")
