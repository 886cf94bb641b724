"""`segcore bench`: how fast a recipe's network runs on this machine, and in how much memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from segcore.commands.parsing import parse_options
from segcore.commands.recipes import NetworkOptions
from segcore.paper import Paper
from segcore.recipe import AMP, Recipe
from segcore.recipe.ranges import AT_LEAST_1

if TYPE_CHECKING:
    import torch


_DESCRIPTION = """Time the network of a recipe with random weights: inference as it is, with its norms folded, and a
training step. Median over the runs."""


@dataclass(frozen=True, kw_only=True)
class BenchOptions(NetworkOptions):
    """What to time."""

    batch: Annotated[int, AT_LEAST_1] = 1
    """Images of a forward pass."""
    train_batch: Annotated[int, AT_LEAST_1] = 2
    """Images of a training step."""
    runs: Annotated[int, AT_LEAST_1] = 10
    """Measured runs of each form."""
    amp: AMP = "off"
    """Precision."""
    device: str = "auto"
    """cpu, cuda, mps, xpu or auto, as --run.device."""


def main(words: list[str]) -> int:
    """Run `segcore bench`; returns the exit code.

    Raises:
        InputError: for an unknown recipe or a number that must be positive.
    """
    options = parse_options("segcore bench", _DESCRIPTION, BenchOptions, words)
    paper, recipe, size = options.find()
    bare = replace(recipe, model=replace(recipe.model, pretrained=False, weights=""))
    run = replace(bare.run, device=options.device, amp=options.amp)
    batches = (options.batch, options.train_batch)
    for line in measure(paper, replace(bare, run=run), size, batches, options.runs):
        print(line, flush=True)
    return 0


def measure(paper: Paper, recipe: Recipe, size: tuple[int, int], batches: tuple[int, int], runs: int) -> list[str]:
    """Return a table of milliseconds and images per second, and where it was measured.

    Args:
        size: height and width of the images.
        batches: images of a forward pass, and of a training step.
        runs: measured runs of each form, after two that are not.
    """
    import torch  # only here, so --help is instant

    from segcore import distributed
    from segcore.build import build_model, placed
    from segcore.data import dataset_classes
    from segcore.evaluation.timing import median_seconds, processor
    from segcore.layers.fuse import fuse_norms
    from segcore.layers.precision import mixed_precision
    from segcore.training.step_time import timed_step

    device = distributed.current_device(recipe.run.device)
    num_classes = len(dataset_classes(recipe.data).names)
    model = placed(build_model(paper, recipe, num_classes), recipe.run, device)
    image = torch.randn(batches[0], 3, *size, device=device).to(memory_format=torch.channels_last)

    def forward(network: torch.nn.Module) -> Callable[[], None]:
        def run() -> None:
            with torch.inference_mode(), mixed_precision(device, recipe.run.amp):
                network(image)

        return run

    model.eval()
    forms = [("inference", forward(model), batches[0]), ("norms folded", forward(fuse_norms(model)), batches[0])]
    rows = [_row(name, median_seconds(run, runs, device), batch) for name, run, batch in forms]
    model.train()
    learn = timed_step(paper, recipe, model, size, batches[1], device)
    rows.append(_row("training step", median_seconds(learn, runs, device), batches[1]))
    title = (
        f"{size[0]}x{size[1]}, {num_classes} classes, precision {recipe.run.amp}, {processor(device)}, "
        f"torch {torch.__version__}"
    )
    return [title, f"{'':16}{'batch':>6}{'ms':>10}{'images/s':>10}", *rows, _memory(device)]


def _row(name: str, seconds: float, batch: int) -> str:
    return f"{name:16}{batch:>6}{1000 * seconds:>10.1f}{batch / seconds:>10.1f}"


def _memory(device: torch.device) -> str:
    from segcore.training.log import used_memory

    kind = "resident in the process" if device.type == "cpu" else "allocated on the GPU"
    return f"peak memory {used_memory():.0f} MiB {kind}"
