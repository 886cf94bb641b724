"""What a network needs of a device: no float64, which Apple's GPUs lack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segcore.paper import Paper
from segcore.segmentor import StepInfo
from segcore.training.batches import target_of_labels
from tests.contract.conftest import small_recipe


class Float64(TorchDispatchMode):
    """Collects the operations on a kind of device that give float64 tensors."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.dtype == torch.float64 and leaf.device.type == self.kind:
                self.found.add(str(func))
        return result


def test_a_network_makes_no_float64_on_its_device(paper: Paper, tmp_path: Path) -> None:
    model = paper.build(small_recipe(paper, tmp_path), 8).to("meta").eval()  # meta stands for what is no CPU
    with Float64("meta") as mode:
        model(torch.zeros(2, 3, 64, 64, device="meta"))
    assert mode.found == set()


def test_the_losses_make_no_float64(paper: Paper, tmp_path: Path) -> None:
    recipe = small_recipe(paper, tmp_path)
    model = paper.build(recipe, 8).train()
    image, label = torch.zeros(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.int64)
    target, step = target_of_labels(label, paper.map_source(recipe)), StepInfo(0, 10, 1e-3)
    model.losses(image, target, step)  # what only sizes decide is kept: the network's part is tested above
    with Float64("cpu") as mode:
        model.losses(image, target, step).total().backward()
    assert mode.found == set()
