"""How near a forward or a training step is to this machine's own limit: its matrix products and convolutions alone.

Every product and convolution (in a step, also those of the gradients) is recorded with its shapes and memory layout,
then run by itself, on one thread: inputs at hand, outputs thrown away. Their sum is what nothing built on the same
kernels can beat. Products and whole runs take turns; processor time, medians. Goal for IIWA and MemoryNet, whose
backbones are nearly all products: at most 1.25 of the limit.

python bench/limit.py [--repeats N] [--only PAPER-RECIPE]
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from segcore.build import for_inference, placed
from segcore.layers.precision import memory_format
from segcore.models import create_model
from segcore.paper import load_paper
from segcore.recipe import Recipe, Run
from segcore.segmentor import Segmentor, StepInfo, Target

NETWORKS = (
    ("iiwa", "s-ade20k", 512, "backbone"),
    ("iiwa", "s-ade20k", 512, "network"),
    ("memorynet", "r50-ade20k", 512, "backbone"),
    ("memorynet", "r50-ade20k", 512, "network"),
    ("memorynet", "r50-ade20k", 256, "step"),
    ("cgrseg", "t-ade20k", 512, "network"),
    ("ecfd", "tiny-r50-pascal-context-59", 480, "network"),
    ("unept", "r50-ade20k", 480, "network"),
)
GOAL = 1.25
BATCH = 2
_aten = torch.ops.aten
_PRODUCTS = (
    _aten.mm,
    _aten.addmm,
    _aten.bmm,
    _aten.baddbmm,
    _aten.convolution,
    _aten.convolution_backward,
    _aten._scaled_dot_product_flash_attention_for_cpu,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward,
    torch.ops.mkldnn._linear_pointwise,
    torch.ops.mkldnn._convolution_pointwise,
)


class Products(TorchDispatchMode):
    """Counts the products and convolutions run under it by operator, shapes, strides and options."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[tuple[Any, str]] = Counter()
        self.replays: dict[tuple[Any, str], Callable[[], Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator; note it if it is a product."""
        if func.overloadpacket in _PRODUCTS:
            key = (func, repr(tree_map(_described, (args, kwargs or {}))))
            self.calls[key] += 1
            if key not in self.replays:
                own, named = tree_map(_alike, (args, kwargs or {}))
                self.replays[key] = lambda: func(*own, **named)
        return func(*args, **(kwargs or {}))


def _described(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return (tuple(value.shape), () if value.is_mkldnn else value.stride())


def _alike(value: Any) -> Any:
    """Return a random tensor of the shape and strides of another; packed weights and the rest as they are."""
    if not isinstance(value, Tensor) or value.is_mkldnn:
        return value
    length = 1 + sum((size - 1) * step for size, step in zip(value.shape, value.stride(), strict=True))
    return torch.randn(length).as_strided(value.shape, value.stride())  # also of expanded tensors


def timed(run: Callable[[], Any]) -> float:
    """Return the processor time of a call, ms."""
    started = time.process_time()
    run()
    return 1e3 * (time.process_time() - started)


def forward_of(model: Segmentor, run: Run, part: str, size: int) -> Callable[[], Any]:
    """Return a forward of one image through the network or its backbone, as the commands run it."""
    network = for_inference(model.eval(), run)
    network = network.backbone if part == "backbone" else network
    image = torch.randn(1, 3, size, size)
    return torch.no_grad()(lambda: network(image))  # inference mode would show whole layers


def step_of(model: Segmentor, recipe: Recipe, size: int) -> Callable[[], Any]:
    """Return the losses of two images and their gradients, without an optimizer."""
    model = placed(model.train(), recipe.run, torch.device("cpu"))
    image = torch.randn(BATCH, 3, size, size).contiguous(memory_format=memory_format(recipe.run.channels_last))
    target = Target(torch.randint(model.num_classes, (BATCH, size, size)))
    step = StepInfo(iteration=0, total=1, lr=recipe.optim.lr)

    def run() -> None:
        model.losses(image, target, step).total().backward()
        model.zero_grad(set_to_none=True)

    return run


def measure(paper: str, recipe_name: str, size: int, part: str, repeats: int) -> tuple[float, float]:
    """Return the milliseconds of a run as the commands do it, and of its products alone."""
    torch.manual_seed(0)
    model, recipe = create_model(f"{paper}-{recipe_name}"), load_paper(paper).recipes[recipe_name]
    run = step_of(model, recipe, size) if part == "step" else forward_of(model, recipe.run, part, size)
    products = Products()
    with products:
        run()
    whole: list[float] = []
    alone: dict[Any, list[float]] = {key: [] for key in products.replays}
    for _ in range(repeats):
        whole.append(timed(run))
        with torch.no_grad():
            for key, replay in products.replays.items():
                count = products.calls[key]
                alone[key].append(timed(lambda again=replay, n=count: [again() for _ in range(n)]))
    return median(whole), sum(median(times) for times in alone.values())


def main() -> None:
    """Print one line per run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    print(f"float32, 1 thread, load average {load:.1f} before the run; medians of {options.repeats} runs.")
    print(f"Goal for iiwa and memorynet: {GOAL}.\n")
    print("| network | whole, ms | its products alone, ms | of the limit |\n|---|---|---|---|")
    for paper, recipe, size, part in NETWORKS:
        if options.only in ("", f"{paper}-{recipe}"):
            whole, products = measure(paper, recipe, size, part, options.repeats)
            share = f"**{whole / products:.2f}**"
            print(
                f"| {paper} {recipe}, {part}, {size} | {whole:.0f} | {products:.0f} | {share} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
