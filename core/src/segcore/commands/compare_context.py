"""`segcore compare context`: what far pixels are worth to trained networks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from segcore.commands.parsing import parse_options
from segcore.commands.recipes import recipe_of_checkpoint
from segcore.data import choose_test_split, create_dataset
from segcore.errors import check
from segcore.files import atomic_write, make_folder
from segcore.recipe.ranges import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, check_ranges

_DESCRIPTION = """IoU of every class as a function of the radius that a pixel may see: everything farther is replaced by
the mean color. Pixels are sampled evenly over the classes; every pixel and radius is a forward pass."""


@dataclass(frozen=True, kw_only=True)
class ContextOptions:
    """What to ask."""

    checkpoints: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="CHECKPOINT ...")]
    """Weights of ours (.safetensors), of networks with the same classes."""
    root: Annotated[str, tyro.conf.arg(aliases=["--run.data"])] = ""
    """Folder of the data set; empty is that of the first checkpoint's run."""
    split: str = ""
    """Split that the pixels are of; empty is the run's test split."""
    radii: Annotated[tuple[float, ...], POSITIVE] = (8.0, 16.0, 32.0, 64.0, 128.0)
    """Radii, pixels of the original images; the whole image is asked for besides."""
    pixels: Annotated[int, AT_LEAST_1] = 30
    """Pixels of each class."""
    images: Annotated[int, NOT_NEGATIVE] = 100
    """Look for them in so many images, spread over the split; 0 takes all."""
    out: str = "context"
    """Folder for context.html and context.csv."""
    device: str = "auto"
    """cpu, cuda, mps, xpu or auto."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check(len(self.radii) > 0, "--radii needs at least one radius")


def main(words: list[str]) -> int:
    """Run `segcore compare context`; returns the exit code.

    Raises:
        InputError: if a checkpoint or the data cannot be used, or the classes differ.
    """
    options = parse_options("segcore compare context", _DESCRIPTION, ContextOptions, words)
    recipes = [recipe_of_checkpoint(Path(path)) for path in options.checkpoints]
    recipe = recipes[0][2]
    root = options.root or recipe.run.data
    data, _ = choose_test_split(replace(recipe.data, test_split=options.split or recipe.data.test_split), root)
    dataset = create_dataset(data, root, data.test_split, list_file=data.test_list)
    make_folder(Path(options.out), "--out")
    from segcore.compare.context import context_csv, context_curve, context_page, sample_pixels
    from segcore.pages.render import write_page
    from segcore.predictor import Predictor  # torch loads only here, so --help is instant

    probes = sample_pixels(dataset, options.pixels, images=options.images)
    radii, curves = sorted(set(options.radii)), []
    for path, (paper, name, _) in zip(options.checkpoints, recipes, strict=True):
        predictor = Predictor.from_checkpoint(path, device=options.device)
        check(predictor.classes.names == dataset.classes.names, f"{path} knows other classes than {dataset.name}")
        word = f"{paper.name}-{name}"
        word = f"{word} ({Path(path).parent.name})" if any(curve.name == word for curve in curves) else word
        curves.append(
            context_curve(word, predictor.model, predictor.protocol, dataset, probes, radii, predictor.device)
        )
        print(f"{word}: mean IoU {', '.join(f'{100 * value:.1f}' for value in curves[-1].mean())} %", flush=True)
    facts = (f"{dataset.name} {data.test_split}", f"{len(probes)} pixels, up to {options.pixels} of each class")
    page = write_page(Path(options.out, "context.html"), context_page(curves, dataset.classes.names, facts))
    table = Path(options.out, "context.csv")
    with atomic_write(table) as file:
        file.write(context_csv(curves, dataset.classes.names).encode())
    print(f"wrote {page}\nwrote {table}")
    return 0
