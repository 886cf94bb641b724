"""`segcore count`: parameters and multiply-adds of a recipe's network beside the published figures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from segcore.commands.recipe_arguments import add_recipe_arguments, chosen_recipe
from segcore.paper import Paper
from segcore.recipe import Recipe


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segcore count",
        description="Count the parameters and multiply-adds of a recipe's network, as the papers count them and as "
        "torch does, for one image of the training crop.",
    )
    add_recipe_arguments(parser)
    parser.add_argument("--classes", type=int, default=0, metavar="K", help="default: those of the data set")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run `segcore count`; returns the exit code.

    Raises:
        InputError: for an unknown or ambiguous recipe.
    """
    options = _parser().parse_args(list(argv))
    paper, recipe, size = chosen_recipe(options)
    counted = count_recipe(paper, recipe, size, options.classes)
    print(f"{paper.name} {options.recipe}, 1x3x{size[0]}x{size[1]}: {counted}")
    published = recipe.published
    if published.params is not None and published.gmacs is not None:
        note = f" ({published.note})" if published.note else ""
        print(f"published: {published.params:g} M parameters, {published.gmacs:g} GMACs{note}")
    return 0


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
