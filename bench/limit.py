"""How near a forward is to this machine's own limit: the time of its matrix products and convolutions alone.

Every product and convolution of a forward is recorded with its shapes and memory layout, then run by itself, on one
thread: inputs at hand, outputs thrown away. Their sum is what nothing built on the same kernels can beat. Products and
whole forwards take turns; processor time, medians. Goal for IIWA and MemoryNet, whose backbones are nearly all
products: at most 1.25 of the limit.

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

from segcore.build import for_inference
from segcore.models import create_model
from segcore.paper import load_paper

NETWORKS = (
    ("iiwa", "s-ade20k", 512, "backbone"),
    ("iiwa", "s-ade20k", 512, "network"),
    ("memorynet", "r50-ade20k", 512, "backbone"),
    ("memorynet", "r50-ade20k", 512, "network"),
    ("cgrseg", "t-ade20k", 512, "network"),
    ("ecfd", "tiny-r50-pascal-context-59", 480, "network"),
    ("unept", "r50-ade20k", 480, "network"),
)
GOAL = 1.25
_aten = torch.ops.aten
_PRODUCTS = (
    _aten.mm,
    _aten.addmm,
    _aten.bmm,
    _aten.baddbmm,
    _aten.convolution,
    _aten._scaled_dot_product_flash_attention_for_cpu,
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


def measure(paper: str, recipe: str, size: int, part: str, repeats: int) -> tuple[float, float]:
    """Return the milliseconds of a forward of the network or its backbone, as commands run it, and of its products."""
    torch.manual_seed(0)
    built = create_model(f"{paper}-{recipe}").eval()
    network = for_inference(built, load_paper(paper).recipes[recipe].run)
    if part == "backbone":
        network = network.backbone
    image = torch.randn(1, 3, size, size)
    products = Products()
    with torch.no_grad(), products:  # inference mode would show whole layers
        network(image)
    with torch.inference_mode():
        forwards: list[float] = []
        alone: dict[Any, list[float]] = {key: [] for key in products.replays}
        for _ in range(repeats):
            forwards.append(timed(lambda: network(image)))
            for key, replay in products.replays.items():
                count = products.calls[key]
                alone[key].append(timed(lambda run=replay, n=count: [run() for _ in range(n)]))
    return median(forwards), sum(median(times) for times in alone.values())


def main() -> None:
    """Print one line per network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    print(f"float32, 1 thread, load average {load:.1f} before the run; medians of {options.repeats} runs.")
    print(f"Goal for iiwa and memorynet: {GOAL}.\n")
    print("| network | forward, ms | its products alone, ms | of the limit |\n|---|---|---|---|")
    for paper, recipe, size, part in NETWORKS:
        if options.only in ("", f"{paper}-{recipe}"):
            forward, products = measure(paper, recipe, size, part, options.repeats)
            share = f"**{forward / products:.2f}**"
            print(
                f"| {paper} {recipe}, {part}, {size} | {forward:.0f} | {products:.0f} | {share} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
