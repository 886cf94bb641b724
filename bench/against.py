"""Our networks beside the published code: the same weights, the same outputs and losses, both measured in turns.

python bench/against.py PAPER --reference DIR [--mmcv DIR] [--recipe NAME ...] [--pairs N]

DIR is a checkout of the published repository (`bench/references/PAPER.py` says which), --mmcv one of mmcv 1.x, of which
Python files alone are used. Nothing of theirs is in this repository.

Both networks take turns in one process with one thread, so that other load meets both: the table has the median of the
pairs' ratios of processor time. Each measured call follows one that is not: ours uses freed memory again, as the
commands do (`segcore.memory`); in theirs it goes back to the system, as in any process. Memory is the process's peak
beyond what it held before the call (Linux). Ours is what the commands run: the forward pass is `for_inference`'s,
everything is channels_last. A training step is the losses and their gradients, without an optimizer, and without
dropout, which would draw other numbers on either side. A test is a decoded picture at six scales, each mirrored,
through either side's whole chain to its label map.

`python bench/run.py against -- PAPER ...` writes what is printed into RESULTS.md.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from references import Places, Published, num_classes
from torch import Tensor, nn

from segcore.build import for_inference, placed
from segcore.evaluation.inference import predict_labels, views
from segcore.memory import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, keep_freed_memory
from segcore.paper import Paper, load_paper
from segcore.recipe import Model, Recipe
from segcore.segmentor import Segmentor, StepInfo, size_of
from segcore.training.batches import target_of_labels

PAPERS = ("cgrseg", "ecfd", "iiwa", "memorynet", "unept")
PARTS = ("forward", "step", "test")
OUTPUT_TOLERANCE = 1e-4
"""Of the published output's standard deviation, for the largest difference."""
LOSS_TOLERANCE = 1e-5
"""Of the published loss."""
DIFFERING_PIXELS = 1e-3
"""Of a label map: an untrained network has many near ties."""
BATCH, CROP = 2, 256
PICTURE = (375, 500)
"""Height and width of what is tested at six scales and mirrored."""
_RATES = ("dropout", "drop_path")
_MIB = 1024  # kB of /proc
_PR_SET_THP_DISABLE = 41
_LARGEST_HEAP_BLOCK = 32 << 20
Results = Sequence[Tensor]


class DifferentError(Exception):
    """The two networks do not compute the same, so there is nothing to compare."""


class Cost(NamedTuple):
    """Processor time in seconds, one value a pair, and the peak of memory in MiB."""

    seconds: tuple[float, ...]
    peak: float


class Measured(NamedTuple):
    """What both cost, and the largest difference of their results over the published ones' standard deviation."""

    published: Cost
    ours: Cost
    difference: float

    @property
    def faster(self) -> float:
        """Median of the pairs' ratios of processor time: above 1 ours is faster."""
        pairs = zip(self.published.seconds, self.ours.seconds, strict=True)
        return median(theirs / ours for theirs, ours in pairs)


def difference_of(published: Results, ours: Results) -> float:
    """Return the largest difference of any tensor over the published one's deviation; of one number, over itself.

    Of label maps, the share of pixels that differ.
    """
    shapes = [[tuple(part.shape) for part in parts] for parts in (published, ours)]
    if shapes[0] != shapes[1]:
        raise DifferentError(f"the published network gives {shapes[0]}, ours {shapes[1]}")
    if not published[0].is_floating_point():
        return float((published[0] != ours[0]).float().mean())
    units = [part.std() if part.numel() > 1 else part.abs() for part in published]
    return max(
        float((theirs - mine).abs().max() / unit) for theirs, mine, unit in zip(published, ours, units, strict=True)
    )


def measure(
    published: Callable[[], Results],
    ours: Callable[[], Results],
    pairs: int,
    tolerance: float,
    forget: Callable[[], object] = gc.collect,
) -> Measured:
    """Check that two computations agree, then measure them in turns; every other pair starts with ours.

    Args:
        forget: lets go of what ours kept, before memory is measured: it counts as well.

    Raises:
        DifferentError: if they do not agree.
    """
    difference = difference_of(published(), ours())
    if not difference <= tolerance:  # not a number is no agreement
        raise DifferentError(f"results differ by {difference:.2e}, allowed is {tolerance:g}")
    seconds: dict[Callable[[], Results], list[float]] = {published: [], ours: []}
    for number in range(pairs):
        for call in (published, ours) if number % 2 == 0 else (ours, published):
            manage_memory(is_kept=call is ours)
            call()
            started = time.process_time()
            call()
            seconds[call].append(time.process_time() - started)
    forget()
    costs = []
    for call in (published, ours):
        manage_memory(is_kept=call is ours)
        costs.append(Cost(tuple(seconds[call]), peak_of(call)))
    theirs, mine = costs
    return Measured(theirs, mine, difference)


def manage_memory(*, is_kept: bool) -> None:
    """Treat freed memory as the commands do, or as a process does by itself, and start without any; Linux."""
    libc = ctypes.CDLL(None)
    gc.collect()
    libc.malloc_trim(0)
    if is_kept:
        keep_freed_memory()
    else:  # where glibc's own rule arrives after a few large tensors
        libc.mallopt(M_MMAP_THRESHOLD, _LARGEST_HEAP_BLOCK)
        libc.mallopt(M_TRIM_THRESHOLD, 2 * _LARGEST_HEAP_BLOCK)
    libc.prctl(_PR_SET_THP_DISABLE, int(not is_kept), 0, 0, 0)


def peak_of(call: Callable[[], object]) -> float:
    """Return the most memory that the process held during a call beyond what it held before, MiB; Linux."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _kilobytes("VmRSS")
    call()
    return (_kilobytes("VmHWM") - before) / _MIB


def _kilobytes(entry: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry))


@torch.no_grad()
def settle(network: nn.Module) -> None:
    """Give an untrained network values as a trained one has them, so that every part shows in its results.

    Norms get statistics, and tensors that start as one number (gates at zero, norms at one) spread around it; dropout
    is turned off.
    """
    for parameter in network.parameters():
        if bool((parameter == parameter.flatten()[0]).all()):
            parameter.add_(0.1 * torch.randn_like(parameter))
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
        elif isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0


class Pair(NamedTuple):
    """The published network, and ours with its weights, as the commands place it."""

    published: Published
    ours: Segmentor
    paper: Paper
    recipe_name: str

    @property
    def recipe(self) -> Recipe:
        return self.paper.recipes[self.recipe_name]


def pair_of(paper: Paper, recipe_name: str, published: Published) -> Pair:
    """Build our network of a recipe, and give it the published one's weights by the paper's name map."""
    settle(published.network)
    recipe = paper.recipes[recipe_name]
    model = paper.build(replace(recipe, model=_options(recipe.model, published.options)), num_classes(recipe_name))
    names = published.name_map or paper.name_map(model)
    part = model.get_submodule(published.part)
    part.load_state_dict({**part.state_dict(), **names.convert(part, published.network.state_dict())})
    return Pair(published, placed(model, recipe.run, torch.device("cpu")), paper, recipe_name)


def _options(options: Model, changes: dict[str, Any]) -> Model:
    rates = {name: 0.0 for name in vars(options) if name.endswith(_RATES)}
    return replace(options, pretrained=False, weights="", **rates, **changes)


def measure_forward(pair: Pair, side: int, pairs: int) -> Measured:
    """Measure the evaluation of one image; where the published test resizes the logits to it, ours does, too."""
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    ours_image = image.contiguous(memory_format=torch.channels_last)
    pair.published.network.eval()  # returns nothing in some of the published networks
    model = for_inference(pair.ours.eval(), pair.recipe.run)
    part = model.get_submodule(pair.published.part)

    @torch.inference_mode()
    def theirs() -> Results:
        return _listed(pair.published.forward(image))

    is_resized = not pair.published.part and size_of(theirs()[0]) == (side, side)

    @torch.inference_mode()
    def ours() -> Results:
        return _listed(model.logits(ours_image) if is_resized else part(ours_image))

    return measure(theirs, ours, pairs, OUTPUT_TOLERANCE, forget=model.eval)


def _listed(result: Tensor | Sequence[Tensor]) -> Results:
    return [result] if isinstance(result, Tensor) else list(result)


def measure_test(pair: Pair, pairs: int) -> Measured:
    """Measure the multi-scale + flip test of a decoded picture, from its pixels to its label map."""
    height, width = PICTURE
    noise = np.random.default_rng(0).integers(0, 256, (height // 25, width // 25, 3), np.uint8)
    picture = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    protocol = pair.recipe.evaluate.with_augmentation()
    published = pair.published.aug_test
    assert published is not None
    pair.published.network.eval()
    model = for_inference(pair.ours.eval(), pair.recipe.run)

    @torch.inference_mode()
    def theirs() -> Results:
        return [torch.from_numpy(published(picture))]

    def ours() -> Results:
        return [predict_labels(model, views(picture, protocol), protocol, PICTURE)]

    return measure(theirs, ours, pairs, DIFFERING_PIXELS, forget=model.eval)


def measure_step(pair: Pair, pairs: int) -> Measured:
    """Measure the losses of a batch and their gradients."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(BATCH, 3, CROP, CROP, generator=generator)
    blocks = torch.randint(num_classes(pair.recipe_name), (BATCH, CROP // 32, CROP // 32), generator=generator)
    target = target_of_labels(
        blocks.repeat_interleave(32, 1).repeat_interleave(32, 2), pair.paper.map_source(pair.recipe)
    )
    ours_image = image.contiguous(memory_format=torch.channels_last)
    step = StepInfo(iteration=0, total=1, lr=pair.recipe.optim.lr)
    part = pair.ours.get_submodule(pair.published.part)
    published, published_loss = pair.published.network, pair.published.loss
    published.train()
    pair.ours.train()

    def theirs() -> Results:
        loss = published_loss(image, target) if published_loss else _mean_squares(pair.published.forward(image))
        return _after_backward(published, loss)

    def ours() -> Results:
        loss = pair.ours.losses(ours_image, target, step).total() if published_loss else _mean_squares(part(ours_image))
        return _after_backward(part, loss)

    return measure(theirs, ours, pairs, LOSS_TOLERANCE)


def _mean_squares(maps: Tensor | Sequence[Tensor]) -> Tensor:
    return torch.stack([part.square().mean() for part in _listed(maps)]).sum()


def _after_backward(network: nn.Module, loss: Tensor) -> Results:
    loss.backward()
    network.zero_grad(set_to_none=True)
    return [loss.detach()]


def row(recipe_name: str, what: str, measured: Measured) -> str:
    """Return a line of the table."""
    theirs, ours = measured.published, measured.ours
    cells = (
        recipe_name,
        what,
        f"{1e3 * median(theirs.seconds):.0f}",
        f"{1e3 * median(ours.seconds):.0f}",
        f"**{measured.faster:.2f}**",
        f"{theirs.peak:.0f}",
        f"{ours.peak:.0f}",
        f"{theirs.peak / ours.peak:.2f}",
        f"{measured.difference:.0e}",
    )
    return f"| {' | '.join(cells)} |"


def measured_part(what: str, pair: Pair, side: int, pairs: int) -> tuple[str, Measured]:
    """Measure one of PARTS and say what it was."""
    if what == "step":
        return f"step, {BATCH}x3x{CROP}x{CROP}", measure_step(pair, pairs)
    if what == "test":
        return "ms + flip test of {}x{}".format(*PICTURE), measure_test(pair, pairs)
    return f"forward, 1x3x{side}x{side}", measure_forward(pair, side, pairs)


def main() -> int:
    """Print the table; returns 1 where the two do not agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paper", choices=PAPERS)
    parser.add_argument("--reference", type=Path, required=True, help="checkout of the published repository")
    parser.add_argument("--mmcv", type=Path, help="checkout of mmcv 1.x")
    parser.add_argument("--recipe", nargs="+", help="recipes instead of the adapter's first")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="parts instead of all; only some adapters have a test")
    parser.add_argument("--pairs", type=int, default=5, help="measured pairs of each row")
    options = parser.parse_args()
    rows, notes, load = [], set(), os.getloadavg()[0]
    keep_freed_memory()  # before the first tensor
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # of code that is years old
    adapter = importlib.import_module(f"references.{options.paper}")
    places = Places(reference=options.reference.resolve(), mmcv=options.mmcv and options.mmcv.resolve())
    paper = load_paper(options.paper)
    for name in options.recipe or list(adapter.CASES)[:1]:
        side = adapter.CASES[name]
        try:
            for what in options.only or PARTS:
                torch.manual_seed(0)
                pair = pair_of(paper, name, adapter.build(name, places, CROP if what == "step" else side))
                if what == "test" and pair.published.aug_test is None:
                    continue
                title, measured = measured_part(what, pair, side, options.pairs)
                rows.append(row(name, title, measured))
                notes.add(pair.published.note)
        except DifferentError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
    print(f"""{(adapter.__doc__ or "").strip().splitlines()[0]}

float32, 1 thread of {os.cpu_count()} cores, load average {load:.1f} before the run. Processor time: medians of
{options.pairs} pairs. Outputs agree within {OUTPUT_TOLERANCE:g} of their deviation, losses within {LOSS_TOLERANCE:g},
label maps but for {DIFFERING_PIXELS:g} of their pixels; the last column is the largest difference.
{" ".join(sorted(notes))}

| recipe | what | published, ms | ours, ms | times faster | published, MiB | ours, MiB | times less | difference |
|---|---|---|---|---|---|---|---|---|""")
    print("\n".join(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
