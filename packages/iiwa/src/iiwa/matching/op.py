"""Window matching: which memory window each query window attends to; the operator `iiwa::match_windows`.

The exact assignment of largest total similarity (iiwa/PAPER 3.5 and 7): greedy or nearest windows change the
output of a block by a fifth and more. SciPy solves it on the CPU, a Triton kernel on CUDA without leaving the device;
exported programs hold it as a loop of operations that torch and ONNX have.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from iiwa.matching import loop as matching_loop
from iiwa.matching import scipy as matching_scipy
from segcore.errors import InputError

Backend = Literal["auto", "scipy", "triton", "torch"]
log = logging.getLogger(__name__)

_HAS_TRITON = importlib.util.find_spec("triton") is not None
_IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's own variable: kernels run in Python, on the CPU
_announced: set[tuple[str, str]] = set()


def match_windows(similarity: Tensor, backend: Backend = "auto") -> Tensor:
    """Assign every query window a memory window of its own, so that the sum of similarities is largest.

    Both forms compute in float64. Equally good assignments: each form always takes the same one, but not the one that
    the other takes. No gradient. Compiled programs hold it as one operator that chooses its form when it runs, on
    whatever device it finds the similarities; exported ones hold the form "torch", and need no package.

    Args:
        similarity: of every query window to every memory window. Finite: "scipy" refuses NaN and infinity; "triton",
            which never waits for the device, and "torch" then return some one-to-one assignment.
        backend: "auto" takes `choose_backend`'s; another name forces it.

    Shapes:
        (B, n_q, n_k) float32 -> (B, n_q) int64, distinct in every row

    Raises:
        ValueError: for another number of dimensions.
        InputError: for more query than memory windows, a backend that cannot run here, or NaN ("scipy").
    """
    if similarity.dim() != 3:
        raise ValueError(f"expected similarities (B, n_q, n_k), got {tuple(similarity.shape)}")
    _, num_queries, num_memories = similarity.shape
    if num_queries > num_memories:
        raise InputError(
            f"{num_queries} query windows cannot be matched with {num_memories} memory windows one to one; choose a "
            "backbone whose last feature map is not larger than the others together"
        )
    # refuses here what would fail when the operator runs
    if choose_backend(similarity.device.type, backend) == "torch":
        return matching_loop.match(similarity.detach().float())
    return _match_windows(similarity.detach().float(), backend)


def choose_backend(device: str, requested: Backend = "auto") -> Backend:
    """Return the form that computes on a kind of device: "triton" on CUDA where it is installed, else "scipy".

    While a network is exported "auto" gives "torch".

    Args:
        device: "cpu", "cuda", ...
        requested: "auto", or the form wanted.

    Raises:
        InputError: if the form wanted cannot run there.
    """
    if requested == "auto" and torch.compiler.is_exporting():
        return "torch"
    if requested == "auto":
        return "triton" if device == "cuda" and _HAS_TRITON else "scipy"
    if requested not in ("scipy", "triton", "torch"):
        raise InputError(f"window matching: backend must be auto, scipy, triton or torch, not {requested!r}")
    if requested == "triton" and not _HAS_TRITON:
        raise InputError("window matching: this installation lacks the package triton; use the backend 'scipy'")
    home = "cpu" if _IS_INTERPRETED else "cuda"
    if requested == "triton" and device not in (home, "meta"):
        raise InputError(
            f"window matching: the backend 'triton' needs similarities on {home}, got {device}; move the model there, "
            "or use the backend 'auto'"
        )
    return requested


def _announce(backend: str, device: str) -> None:
    """Say once for each kind of device which form computes there."""
    if (backend, device) not in _announced:
        _announced.add((backend, device))
        is_slow = backend == "scipy" and device != "cpu"
        log.log(logging.WARNING if is_slow else logging.DEBUG, "window matching: %s form on %s", backend, device)


def _solver(backend: str) -> ModuleType:
    """Return the module whose `match` computes."""
    if backend == "triton":
        from iiwa.matching import triton as matching_triton  # only here: not every installation of torch has Triton

        return matching_triton
    return matching_scipy


# not `torch.library.custom_op`: its first call imports dynamo, a second or more
_library = torch.library.Library("iiwa", "FRAGMENT")
_library.define("match_windows(Tensor similarity, str backend) -> Tensor", tags=torch.Tag.pt2_compliant_tag)
_match_windows = torch.ops.iiwa.match_windows.default


@torch.library.register_fake("iiwa::match_windows", lib=_library)
def _empty_assignment(similarity: Tensor, backend: str) -> Tensor:
    return similarity.new_empty(similarity.shape[:2], dtype=torch.int64)


def _match(similarity: Tensor, backend: Backend) -> Tensor:
    chosen = choose_backend(similarity.device.type, backend)
    _announce(chosen, similarity.device.type)
    if similarity.numel() == 0:
        return _empty_assignment(similarity, backend)
    return _solver(chosen).match(similarity)


_library.impl("match_windows", _match, "CompositeExplicitAutograd")
