"""How to run published code beside ours, one adapter a paper; the code itself stays in its own checkout.

An adapter has `CASES` (recipe -> side of the test image and of the published crop, pixels), `BATCH_PER_GPU` (of the
published training) and `build(recipe, places, side)`. It may stand in for what newer numpy, timm and torch lack, for
what the network does not use, and for operators that exist for CUDA only where the checkout has a form in plain torch;
`note` then says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

from segcore.segmentor import Target
from segcore.weights.names import NameMap

NUM_CLASSES = {"ade20k": 150, "cityscapes": 19, "pascal-context-59": 59}
"""Classes by the end of a recipe's name."""


def num_classes(recipe: str) -> int:
    """Return how many classes a recipe's data set has."""
    return next(count for end, count in NUM_CLASSES.items() if recipe.endswith(end))


@dataclass(frozen=True)
class Places:
    """Where published code lies and runs.

    Attributes:
        reference: the published repository, goes in front of Python's path.
        mmcv: mmcv 1.x where it needs one, likewise.
        device: cpu or cuda.
    """

    reference: Path
    mmcv: Path | None = None
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published network, without dropout, so that its losses can be compared."""

    network: nn.Module
    """Its state dict has the published names."""
    forward: Callable[[Tensor], Tensor | Sequence[Tensor]]
    """Image (B, 3, H, W) -> what the published test takes from the network, or the part's maps."""
    loss: Callable[[Tensor, Target], Tensor] | None
    """The loss of a training step; None where only a part was published: then its maps' mean squares are taken."""
    aug_test: Callable[[np.ndarray], np.ndarray] | None = None
    """The multi-scale + flip test: decoded image (H, W, 3) uint8 BGR -> label map (H, W)."""
    options: dict[str, Any] = field(default_factory=dict)
    """What differs from our recipe's `model`."""
    part: str = ""
    """Our module that is compared, where not all of the network was published."""
    name_map: NameMap | None = None
    """Names of the part's tensors; None: those of the paper."""
    note: str = ""
    """What the adapter stands in for, for the reader of the table."""


def prefer(*folders: Path | None) -> None:
    """Put folders in front of Python's path."""
    sys.path[:0] = [str(folder) for folder in folders if folder is not None]


class Unavailable(ModuleType):
    """A stand-in for a module that published code imports and our case does not use: calling its names is an error."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*_: Any, **__: Any) -> Any:
            raise NotImplementedError(f"{self.__name__}.{name} is not here: the published network was not to use it")

        return refuse


def stand_in(names: Iterable[str]) -> None:
    """Let modules that are not installed be imported."""
    for name in names:
        module = Unavailable(name)
        module.__path__ = []  # a package, whose submodules are listed as well
        sys.modules.setdefault(name, module)
