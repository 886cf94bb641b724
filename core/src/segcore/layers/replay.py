"""Replaying a network's forward pass as a CUDA graph: one launch from the host in place of thousands.

Small networks wait for the host: CGRSeg-T launches 12,700 kernels for one multi-scale + flip test of a 512x512 image.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable
from threading import Lock
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from segcore.layers.kept_by_size import tables_used

RECORD_AFTER = 8
"""Forward passes of an input's size before it is recorded, which costs as much as two to four of them."""
MOST_RECORDED = 32
"""Sizes that are recorded: all scales of a test, for some sizes of its images."""
log = logging.getLogger(__name__)


class _Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    image: Tensor  # where the graph reads
    logits: Tensor  # where it writes
    tables: list[Any]  # what it reads besides and does not own


class Replays:
    """A network's forward passes in evaluation on a CUDA device, by the size of their input.

    A recording is used where it repeats the network's own result bit by bit, which is seen once, when it is made.
    Recordings hold the memory of a forward pass of the largest size. They read the network's tensors where they lie: a
    network that moves or is changed otherwise than in place needs new ones. Copies of this object start without any.
    """

    def __init__(self) -> None:
        self._seen: Counter[Hashable] = Counter()
        self._recordings: dict[Hashable, _Recording] = {}
        self._pools: dict[torch.cuda.Stream, Any] = {}  # recordings that share memory must not run at once
        self._is_given_up = False
        self._lock = Lock()

    def __call__(self, model: nn.Module, image: Tensor) -> Tensor:
        """Return `model(image)`; one network per object.

        Shapes:
            (B, 3, H, W) -> (B, K, h, w)
        """
        if image.device.type != "cuda" or torch.is_grad_enabled() or model.training:
            return model(image)
        with self._lock:  # threads would write over each other's input
            return self._run(model, image, _conditions(image))

    def _run(self, model: nn.Module, image: Tensor, key: Hashable) -> Tensor:
        recording = self._recordings.get(key)
        if recording is not None:
            recording.image.copy_(image)
            recording.graph.replay()
            return recording.logits.clone()
        self._seen[key] += 1
        logits = model(image)  # also compiles its kernels and makes its tables, which a recording cannot do
        if self._seen[key] == RECORD_AFTER and len(self._recordings) < MOST_RECORDED and not self._is_given_up:
            self._record(model, image, logits, key)
        return logits

    def _record(self, model: nn.Module, image: Tensor, logits: Tensor, key: Hashable) -> None:
        stream = torch.cuda.current_stream(image.device)
        pool = self._pools.get(stream) or self._pools.setdefault(stream, torch.cuda.graph_pool_handle())
        graph, image = torch.cuda.CUDAGraph(), image.clone(memory_format=torch.preserve_format)
        try:
            # other threads pin memory and watch collectives meanwhile
            with tables_used() as tables, torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                recorded = model(image)
        except RuntimeError as error:  # no memory, or the network waits for the device, as no recording can
            self._give_up(str(error).splitlines()[0])
            return
        graph.replay()
        if torch.equal(recorded, logits):
            self._recordings[key] = _Recording(graph, image, recorded, tables)
        else:
            self._give_up("its recording gives other values")

    def _give_up(self, reason: str) -> None:
        log.info("the network is not recorded, it runs launch by launch: %s", reason)
        self._is_given_up = True

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        """Return one without recordings, which belong to the tensors of one network."""
        return type(self)()

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()


def _conditions(image: Tensor) -> Hashable:
    """Return all that decides which kernels run."""
    return (
        image.shape,
        image.stride(),
        image.dtype,
        image.device,
        torch.cuda.current_stream(image.device),
        torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda"),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.is_inference_mode_enabled(),
    )
