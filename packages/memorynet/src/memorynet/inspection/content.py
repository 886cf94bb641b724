"""The memory of a checkpoint: how similar the classes are to each other, and how often each was updated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from segcore.errors import InputError, check
from segcore.weights.files import LoadedCheckpoint, read_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

ROWS, PUBLISHED_ROWS = "head.memory.rows", "memory_module.memory"
UPDATES = "head.memory.num_batches_tracked"


class Pair(NamedTuple):
    """Two classes and the cosine of their most similar slots."""

    first: int
    second: int
    cosine: float


@dataclass(frozen=True)
class MemoryContent:
    """The memory of one checkpoint.

    Attributes:
        names: of the K classes.
        rows: (K, S, C).
        updates: (K,) training steps in which each class was seen; None where the file does not say.
        iteration: training steps behind the file, 0 if not known.
    """

    names: tuple[str, ...]
    rows: np.ndarray
    updates: np.ndarray | None
    iteration: int

    @property
    def is_empty(self) -> np.ndarray:
        """Which classes were never seen: all their slots are zero, (K,) bool."""
        return (self.rows == 0).all(axis=(1, 2))

    def lengths(self) -> np.ndarray:
        """Return the norm of every class's longest slot, (K,)."""
        return np.linalg.norm(self.rows.astype(np.float64), axis=2).max(axis=1)

    def similarity(self) -> np.ndarray:
        """Return the cosine of every two classes, with several slots that of the two most similar ones.

        Shapes:
            -> (K, K), 1 on the diagonal; NaN in the rows and columns of empty classes
        """
        classes, slots, channels = self.rows.shape
        rows = self.rows.reshape(-1, channels).astype(np.float64)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        units = np.divide(rows, norms, out=np.full_like(rows, np.nan), where=norms > 0)
        cosine = (units @ units.T).reshape(classes, slots, classes, slots).transpose(0, 2, 1, 3)
        cosine = np.where(np.isnan(cosine), -np.inf, cosine).max(axis=(2, 3))
        return np.where(np.isinf(cosine), np.nan, cosine)

    def closest(self, count: int) -> list[Pair]:
        """Return the `count` most similar pairs of classes, the most similar first."""
        first, second = np.triu_indices(len(self.names), k=1)
        cosine = self.similarity()[first, second]
        order = np.argsort(-np.where(np.isnan(cosine), -np.inf, cosine), kind="stable")[:count]
        return [Pair(int(first[i]), int(second[i]), float(cosine[i])) for i in order if not np.isnan(cosine[i])]

    def grouped(self) -> list[int]:
        """Return the classes in an order that puts similar ones beside each other, empty ones last."""
        from scipy.cluster.hierarchy import leaves_list, linkage
        from scipy.spatial.distance import squareform

        filled = np.flatnonzero(~self.is_empty)
        if len(filled) > 2:
            distance = 1 - self.similarity()[np.ix_(filled, filled)]
            np.fill_diagonal(distance, 0)
            condensed = squareform(distance, checks=False).clip(min=0)
            filled = filled[leaves_list(linkage(condensed, "average", optimal_ordering=True))]
        return [*filled.tolist(), *np.flatnonzero(self.is_empty).tolist()]


def read_memory(path: str | Path, *, classes: str = "", unsafe: bool = False) -> MemoryContent:
    """Read the memory of a checkpoint of ours or a published one.

    Args:
        classes: names for a published file, which has none: a data set of fixed classes, or a file of class names.
        unsafe: see `read_checkpoint`.

    Raises:
        InputError: if the file cannot be read or holds no memory, or the names are not as many as its classes.
    """
    return memory_of(read_checkpoint(path, unsafe=unsafe), classes)


def memory_of(loaded: LoadedCheckpoint, classes: str = "") -> MemoryContent:
    """Return the memory of a checkpoint that was read already, see `read_memory`."""
    rows = loaded.tensors.get(PUBLISHED_ROWS if loaded.meta is None else ROWS)
    if rows is None or rows.dim() != 3:
        origin = f" of {loaded.meta.paper}" if loaded.meta else ""
        raise InputError(
            f"{loaded.path} is a checkpoint{origin} without a memory; expected weights of memorynet-train or a "
            "published MemoryNet .pth"
        )
    if loaded.meta is None:
        names, iteration = _published_names(loaded.published_meta, classes, len(rows)), 0
    else:
        names, iteration = _asked_names(classes) or loaded.meta.classes, loaded.meta.iteration
    if len(names) != len(rows):
        raise InputError(f"{loaded.path} holds a memory of {len(rows)} classes, --classes {classes} has {len(names)}")
    return MemoryContent(tuple(names), rows.float().numpy(), _updates(loaded.tensors.get(UPDATES)), iteration)


def _updates(counts: Tensor | None) -> np.ndarray | None:
    """Return the counts; those of a file converted from a published one are all zero and say nothing."""
    return None if counts is None or not counts.any() else counts.numpy()


def _asked_names(classes: str) -> Sequence[str]:
    from segcore.data import dataset_classes, fixed_datasets
    from segcore.data.folder import read_classes
    from segcore.recipe import Data

    if not classes:
        return ()
    if Path(classes).is_file():
        return read_classes(Path(classes)).names
    known = ("toy", *fixed_datasets())
    check(
        classes in known,
        f"--classes must name a file of class names or one of {', '.join(known)}, got {classes}",
    )
    return dataset_classes(Data(dataset=classes)).names


def _published_names(meta: Mapping[str, Any], classes: str, count: int) -> Sequence[str]:
    stated = meta.get("CLASSES")
    named = _asked_names(classes) or (stated if isinstance(stated, Sequence) and len(stated) == count else ())
    return [str(name) for name in named] or [f"class {number}" for number in range(count)]
