"""Where a step on a GPU would wait for it: run on fake CUDA tensors, which have no values to look at.

python -m tests.contract.waits    prints {"PAPER training": "" or where it waits, ...}; a process of its own, since what
the networks keep by size would be fake tensors afterwards.
"""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from segcore.evaluation.image_counts import ImageCounter
from segcore.evaluation.inference import View, predict_labels
from segcore.evaluation.metrics import ConfusionMatrix
from segcore.images.region import Box
from segcore.layers.fuse import fuse_norms
from segcore.paper import Paper, installed_papers
from segcore.segmentor import Segmentor, StepInfo
from segcore.training.batches import Batch, target_of_labels
from tests.contract.conftest import small_recipe

CLASSES, SIZE, DEVICE = 8, (64, 96), torch.device("cuda")
ROOT = Path(__file__).parents[2]


def empty_like(tensor: Tensor) -> Tensor:
    """Return a tensor of the same kind on the fake GPU."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=DEVICE)


def move(model: nn.Module) -> None:
    """Put parameters and buffers on the fake GPU."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, nn.Parameter(empty_like(parameter), parameter.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, empty_like(buffer))


def training_step(paper: Paper, model: Segmentor) -> None:
    """Move a batch and compute its losses; what follows, the backward pass, cannot run without a real GPU."""
    source = paper.map_source(small_recipe(paper, Path()))
    with unset_fake_temporarily():  # made by loader processes
        made = target_of_labels(torch.zeros((2, *SIZE), dtype=torch.int64), source)
    shapes = {name: part.shape for name, part in made._asdict().items() if part is not None}
    pixels, label = (torch.empty(shape, dtype=torch.uint8) for shape in ((2, 3, *SIZE), shapes.pop("label")))
    maps = {name: torch.empty(shape) for name, shape in shapes.items()}
    image, target = Batch(pixels, label, maps, [Box(0, 0, *SIZE), Box(3, 5, 50, 60)]).to(DEVICE)
    model.losses(image, target, StepInfo(1, 10, 1e-3)).total()


def test_step(paper: Paper, model: Segmentor) -> None:
    """Predict an image with several scales and flip, and count it."""
    protocol = small_recipe(paper, Path()).evaluate.with_augmentation()
    parts = [View(torch.empty((height, 96, 3), dtype=torch.uint8), 1.0) for height in (48, 64, 80)]
    label = torch.empty(SIZE, dtype=torch.uint8, device=DEVICE)
    with torch.inference_mode():
        prediction = predict_labels(fuse_norms(model.eval()), parts, protocol, SIZE)
        ConfusionMatrix(CLASSES, DEVICE).update(prediction, label)
        counter = ImageCounter(1, CLASSES, DEVICE, "predicted")
        counter.add(0, prediction, label, torch.empty(SIZE, dtype=torch.uint8, device=DEVICE))


def where(step: Callable[[], None]) -> str:
    """Return the error of a step and our lines that led to it; nothing where it runs."""
    try:
        step()
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if str(ROOT) in frame.filename and "site-packages" not in frame.filename]
        lines = [f"{frame.filename}:{frame.lineno}" for frame in ours]
        return f"{type(error).__name__}: {error} at {' <- '.join(reversed(lines[-3:]))}"
    return ""


def main() -> None:
    """Run the steps of every paper, and one that waits."""
    papers = installed_papers()
    networks = {name: paper.build(small_recipe(paper, Path()), CLASSES) for name, paper in papers.items()}
    found: dict[str, str] = {}
    warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")  # it only has to be the same
    with FakeTensorMode(allow_non_fake_inputs=False):
        found["control"] = where(lambda: print(torch.ones(2, device=DEVICE).sum().item()))
        for name, model in networks.items():
            move(model)
            found[f"{name} training"] = where(lambda name=name, model=model: training_step(papers[name], model))
            found[f"{name} test"] = where(lambda name=name, model=model: test_step(papers[name], model))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
