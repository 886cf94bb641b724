"""`segcore count`: parameters and multiply-adds of a recipe's network beside the published figures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from segcore.commands.parsing import parse_options
from segcore.commands.recipes import NetworkOptions
from segcore.paper import Paper
from segcore.recipe import Published, Recipe
from segcore.recipe.ranges import NOT_NEGATIVE

_DESCRIPTION = """Count the parameters and multiply-adds of a recipe's network, as the papers count them and as torch
does, for one image of the training crop."""


@dataclass(frozen=True, kw_only=True)
class CountOptions(NetworkOptions):
    """What to count."""

    classes: Annotated[int, NOT_NEGATIVE] = 0
    """Number of classes; 0 is that of the data set."""


def main(words: list[str]) -> int:
    """Run `segcore count`; returns the exit code.

    Raises:
        InputError: for an unknown or ambiguous recipe.
    """
    options = parse_options("segcore count", _DESCRIPTION, CountOptions, words)
    paper, recipe, size = options.find()
    counted = count_recipe(paper, recipe, size, options.classes)
    print(f"{paper.name} {options.recipe}, 1x3x{size[0]}x{size[1]}: {counted}")
    figures = _published(recipe.published)
    if figures:
        print(figures)
    return 0


def _published(published: Published) -> str:
    """Return the published figures as one line; empty where there are none."""
    known = ((published.params, "M parameters"), (published.gmacs, "GMACs"))
    figures = [f"{value:g} {unit}" for value, unit in known if value is not None]
    note = f" ({published.note})" if published.note else ""
    return f"published: {', '.join(figures)}{note}" if figures else ""


def count_recipe(paper: Paper, recipe: Recipe, size: tuple[int, int], num_classes: int = 0) -> str:
    """Return the counts of a recipe's network as one line; nothing is computed, only shapes."""
    import torch  # only here, so --help is instant

    from segcore.build import build_model
    from segcore.data import dataset_classes
    from segcore.layers.count import count, format_count

    bare = replace(recipe, model=replace(recipe.model, pretrained=False, weights=""))
    with torch.device("meta"):
        model = build_model(paper, bare, num_classes or len(dataset_classes(recipe.data).names))
    return format_count(count(model, size))
