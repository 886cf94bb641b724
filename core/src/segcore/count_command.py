"""`segcore count`: parameters and multiply-adds of a recipe's network beside the published figures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from segcore.errors import InputError
from segcore.papers import Paper, installed_papers, load_paper
from segcore.recipe import Recipe


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segcore count",
        description="Count the parameters and multiply-adds of a recipe's network, as the papers count them and as "
        "torch does, for one image of the training crop.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="name of a recipe, e.g. t-ade20k")
    parser.add_argument("--paper", default="", help="paper of the recipe, needed where several have that name")
    parser.add_argument("--height", type=int, default=0, metavar="PIXELS", help="default: the training crop's")
    parser.add_argument("--width", type=int, default=0, metavar="PIXELS", help="default: the training crop's")
    parser.add_argument("--classes", type=int, default=0, metavar="K", help="default: those of the data set")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run `segcore count`; returns the exit code.

    Raises:
        InputError: for an unknown or ambiguous recipe.
    """
    options = _parser().parse_args(list(argv))
    paper, recipe = find_recipe(options.paper, options.recipe)
    size = (options.height or recipe.augment.crop[0], options.width or recipe.augment.crop[1])
    counted = count_recipe(paper, recipe, size, options.classes)
    print(f"{paper.name} {options.recipe}, 1x3x{size[0]}x{size[1]}: {counted}")
    published = recipe.published
    if published.params is not None and published.gmacs is not None:
        print(f"published: {published.params:g} M parameters, {published.gmacs:g} GMACs")
    return 0


def count_recipe(paper: Paper, recipe: Recipe, size: tuple[int, int], num_classes: int = 0) -> str:
    """Return the counts of a recipe's network as one line; nothing is computed, only shapes."""
    import torch  # only here, so --help is instant

    from segcore.build import build_model
    from segcore.count import count, format_count
    from segcore.data import dataset_classes

    bare = replace(recipe, model=replace(recipe.model, pretrained=False, weights=""))
    with torch.device("meta"):
        model = build_model(paper, bare, num_classes or len(dataset_classes(recipe.data).names))
    return format_count(count(model, size))


def find_recipe(paper_name: str, recipe_name: str) -> tuple[Paper, Recipe]:
    """Return a recipe of the named paper, or of the only installed one that has it (paper_name empty).

    Raises:
        InputError: if there is none, or more than one.
    """
    papers = [load_paper(paper_name)] if paper_name else list(installed_papers().values())
    owners = [paper for paper in papers if recipe_name in paper.recipes]
    if not owners:
        names = " or ".join(f"`{paper.name}-train --list`" for paper in papers) or "installing a paper first"
        raise InputError(f"there is no recipe {recipe_name!r}; {names} prints the names")
    if len(owners) > 1:
        raise InputError(f"several papers have a recipe {recipe_name!r}; add --paper {owners[0].name}, for example")
    return owners[0], owners[0].recipes[recipe_name]
