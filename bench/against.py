"""Our networks beside the published code: the same weights, the same outputs and losses, both measured in turns.

python bench/against.py PAPER --reference DIR [--mmcv DIR] [--recipe NAME ...] [--pairs N] [--device cuda]

DIR is a checkout of the published repository (`bench/references/PAPER.py` says which), --mmcv one of mmcv 1.x, of which
Python files alone are used. Nothing of theirs is in this repository.

Both networks take turns in one process with one thread, so that other load meets both: the table has the median of the
pairs' ratios of processor time. Each measured call follows one that is not: ours uses freed memory again, as the
commands do (`segcore.memory`); in theirs it goes back to the system, as in any process. Memory is the process's peak
beyond what it held before the call (Linux). Ours is what the commands run: the forward pass is `for_inference`'s,
everything is channels_last. A training step is the losses and their gradients, without an optimizer, and without
dropout, which would draw other numbers on either side. A test is a decoded picture at six scales, each mirrored,
through either side's whole chain to its label map.

On a GPU the step has the published crop and batch per GPU, time is until the GPU is done, memory what torch takes from
it. What is compared is computed without TF32, what is measured with it, after the calls in which ours records.

`python bench/run.py against -- PAPER ...` writes what is printed into RESULTS.md.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
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
from references.meters import GpuMeter, Meter, ProcessMeter
from torch import Tensor, nn

from segcore.build import for_inference, placed
from segcore.evaluation.inference import predict_labels, run_network, views
from segcore.layers.precision import training_precision
from segcore.layers.replay import Replays
from segcore.memory import keep_freed_memory
from segcore.paper import Paper, load_paper
from segcore.recipe import Model, Recipe
from segcore.segmentor import Segmentor, StepInfo, Target, resize, size_of
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
Results = Sequence[Tensor]


class DifferentError(Exception):
    """The two networks do not compute the same, so there is nothing to compare."""


class Cost(NamedTuple):
    """Seconds, one value a pair, and the peak of memory in MiB."""

    seconds: tuple[float, ...]
    peak: float


class Measured(NamedTuple):
    """What both cost, and the largest difference of their results over the published ones' standard deviation."""

    published: Cost
    ours: Cost
    difference: float

    @property
    def faster(self) -> float:
        """Median of the pairs' ratios of time: above 1 ours is faster."""
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
    meter: Meter,
    forget: Callable[[], object] = gc.collect,
) -> Measured:
    """Check that two computations agree, then measure them in turns; every other pair starts with ours.

    Args:
        forget: lets go of what ours kept, before memory is measured: it counts as well.

    Raises:
        DifferentError: if they do not agree.
    """
    with training_precision(meter.device, allow_tf32=False):
        difference = difference_of(published(), ours())
    if not difference <= tolerance:  # not a number is no agreement
        raise DifferentError(f"results differ by {difference:.2e}, allowed is {tolerance:g}")
    seconds: dict[Callable[[], Results], list[float]] = {published: [], ours: []}
    for number in range(pairs):
        for call in (published, ours) if number % 2 == 0 else (ours, published):
            seconds[call].append(meter.seconds(call, is_ours=call is ours))
    forget()
    theirs, mine = (Cost(tuple(seconds[call]), meter.peak(call, is_ours=call is ours)) for call in (published, ours))
    return Measured(theirs, mine, difference)


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
    meter: Meter

    @property
    def recipe(self) -> Recipe:
        return self.paper.recipes[self.recipe_name]


def pair_of(paper: Paper, recipe_name: str, published: Published, meter: Meter) -> Pair:
    """Build our network of a recipe, give it the published one's weights by the paper's name map, and place both."""
    settle(published.network)
    recipe = paper.recipes[recipe_name]
    model = paper.build(replace(recipe, model=_options(recipe.model, published.options)), num_classes(recipe_name))
    names = published.name_map or paper.name_map(model)
    part = model.get_submodule(published.part)
    part.load_state_dict({**part.state_dict(), **names.convert(part, published.network.state_dict())})
    published.network.to(meter.device)
    return Pair(published, placed(model, recipe.run, meter.device), paper, recipe_name, meter)


def _options(options: Model, changes: dict[str, Any]) -> Model:
    rates = {name: 0.0 for name in vars(options) if name.endswith(_RATES)}
    return replace(options, pretrained=False, weights="", **rates, **changes)


def measure_forward(pair: Pair, side: int, pairs: int) -> Measured:
    """Measure the evaluation of one image; where the published test resizes the logits to it, ours does, too."""
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(pair.meter.device)
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
        if pair.published.part:
            return _listed(part(ours_image))
        logits = run_network(model, ours_image)
        return [resize(logits, (side, side)) if is_resized else logits]

    return measure(theirs, ours, pairs, OUTPUT_TOLERANCE, pair.meter, forget=lambda: _forget(model))


def _forget(model: Segmentor) -> None:
    """Let go of all that a network in evaluation keeps."""
    model.eval()
    model.replays = model.replays and Replays()


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
        return [predict_labels(model, views(picture, protocol), protocol, PICTURE).cpu()]

    return measure(theirs, ours, pairs, DIFFERING_PIXELS, pair.meter, forget=lambda: _forget(model))


def measure_step(pair: Pair, batch: int, crop: int, pairs: int) -> Measured:
    """Measure the losses of a batch and their gradients."""
    generator, device = torch.Generator().manual_seed(1), pair.meter.device
    image = torch.randn(batch, 3, crop, crop, generator=generator).to(device)
    blocks = torch.randint(num_classes(pair.recipe_name), (batch, crop // 32, crop // 32), generator=generator)
    label = blocks.repeat_interleave(32, 1).repeat_interleave(32, 2)
    made = target_of_labels(label, pair.paper.map_source(pair.recipe))
    maps = (None if part is None else part.to(device) for part in made[1:])
    target = Target(made.label.to(device), *maps)
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

    return measure(theirs, ours, pairs, LOSS_TOLERANCE, pair.meter)


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


def measured_part(what: str, pair: Pair, side: int, batch: int, pairs: int) -> tuple[str, Measured]:
    """Measure one of PARTS and say what it was.

    Args:
        side: of the image, or of the step's crop, pixels.
        batch: images of a step.
    """
    if what == "step":
        return f"step, {batch}x3x{side}x{side}", measure_step(pair, batch, side, pairs)
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
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what computes")
    options = parser.parse_args()
    rows, notes = [], set()
    keep_freed_memory()  # before the first tensor
    warnings.filterwarnings("ignore")  # of code that is years old
    adapter = importlib.import_module(f"references.{options.paper}")
    is_gpu = options.device == "cuda"
    if not is_gpu:
        torch.set_num_threads(1)
    places = Places(options.reference.resolve(), options.mmcv and options.mmcv.resolve(), options.device)
    paper = load_paper(options.paper)
    title = (GpuMeter(is_training=True) if is_gpu else ProcessMeter()).title
    for name in options.recipe or list(adapter.CASES)[:1]:
        try:
            for what in options.only or PARTS:
                is_small_step = what == "step" and not is_gpu
                side, batch = (CROP, BATCH) if is_small_step else (adapter.CASES[name], adapter.BATCH_PER_GPU)
                meter = GpuMeter(is_training=what == "step") if is_gpu else ProcessMeter()
                torch.manual_seed(0)
                pair = pair_of(paper, name, adapter.build(name, places, side), meter)
                if what == "test" and pair.published.aug_test is None:
                    continue
                shown, measured = measured_part(what, pair, side, batch, options.pairs)
                rows.append(row(name, shown, measured))
                notes.add(pair.published.note)
        except DifferentError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
    print(f"""{(adapter.__doc__ or "").strip().splitlines()[0]}

{title}: medians of {options.pairs} pairs.
Outputs agree within {OUTPUT_TOLERANCE:g} of their deviation, losses within {LOSS_TOLERANCE:g},
label maps but for {DIFFERING_PIXELS:g} of their pixels; the last column is the largest difference.
{" ".join(sorted(notes))}

| recipe | what | published, ms | ours, ms | times faster | published, MiB | ours, MiB | times less | difference |
|---|---|---|---|---|---|---|---|---|""")
    print("\n".join(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
