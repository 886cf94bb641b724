"""What commands of core take that work on the network of any paper's recipe: `segcore count`, `segcore bench`."""

from __future__ import annotations

import argparse

from segcore.errors import InputError
from segcore.paper import Paper, installed_papers, load_paper
from segcore.recipe import Recipe


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Add RECIPE, --paper, --height and --width."""
    parser.add_argument("recipe", metavar="RECIPE", help="name of a recipe, e.g. t-ade20k")
    parser.add_argument("--paper", default="", help="paper of the recipe, needed where several have that name")
    parser.add_argument("--height", type=int, default=0, metavar="PIXELS", help="default: the training crop's")
    parser.add_argument("--width", type=int, default=0, metavar="PIXELS", help="default: the training crop's")


def chosen_recipe(options: argparse.Namespace) -> tuple[Paper, Recipe, tuple[int, int]]:
    """Return the paper, its recipe and the image size (height, width) that the arguments name.

    Raises:
        InputError: if no installed paper has the recipe, or several have it and none is named.
    """
    paper, recipe = find_recipe(options.paper, options.recipe)
    return paper, recipe, (options.height or recipe.augment.crop[0], options.width or recipe.augment.crop[1])


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
