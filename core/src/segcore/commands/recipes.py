"""Which recipe the words of a command mean."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import tyro

from segcore.errors import InputError
from segcore.paper import Paper, installed_papers, load_paper
from segcore.recipe import Recipe
from segcore.recipe.file import read_recipe, recipe_from_plain
from segcore.recipe.ranges import NOT_NEGATIVE, check_ranges
from segcore.weights.header import read_meta


def recipe_table(paper: Paper) -> str:
    """Return the recipes of a paper as a text table with their published figures."""
    head = ("recipe", "data set", "mIoU", "ms+flip", "params M", "GMACs", "note")
    rows: list[tuple[str, ...]] = [head]
    for name, recipe in paper.recipes.items():
        p = recipe.published
        figures = ("-" if value is None else f"{value:g}" for value in (p.miou, p.miou_ms, p.params, p.gmacs))
        rows.append((name, recipe.data.dataset, *figures, p.note))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head) - 1)]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=False)] for row in rows]
    lines = ["  ".join([*cells, row[-1]]).rstrip() for cells, row in zip(padded, rows, strict=True)]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def find_recipe(paper: Paper, word: str) -> tuple[str, Recipe]:
    """Return the recipe that a word names: one of the paper, a recipe.json, or that of a work directory.

    Raises:
        InputError: if it is none of these.
    """
    if word in paper.recipes:
        return word, paper.recipes[word]
    if word.startswith("-"):
        raise InputError(f"the first argument must be a recipe, got {word!r}; --list prints them")
    if Path(word).suffix in (".safetensors", ".pth", ".pt"):
        raise InputError(
            f"the first argument must be a recipe, and {word} holds weights: name the recipe before it, or use "
            "`segcore test` or `segcore predict`, which take it from a file of ours"
        )
    saved = read_recipe(paper, word)
    if saved is not None:
        return saved
    close = get_close_matches(word, paper.recipes, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else "--list prints them"
    raise InputError(f"{paper.name} has no recipe {word!r} (nor is it a recipe.json or work directory); {hint}")


def recipe_of_checkpoint(path: Path) -> tuple[Paper, str, Recipe]:
    """Return the paper of one of our weights files, and the name and the options of the recipe it was trained with.

    Raises:
        InputError: if the file cannot be read, is not ours, or its paper is not installed.
    """
    meta = read_meta(path)
    if meta is None:
        raise InputError(
            f"{path} does not say its recipe, as a file of <paper>-train or segcore convert does; give it to the "
            "command of its paper, with its recipe: <paper>-test RECIPE CHECKPOINT"
        )
    paper = load_paper(meta.paper)
    return paper, meta.recipe_name, recipe_from_plain(paper, meta.recipe, str(path))


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """The network of a recipe, and the size of its images."""

    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")]
    """Name of a recipe, e.g. t-ade20k."""
    paper: str = ""
    """Paper of the recipe, needed where several have that name."""
    height: Annotated[int, NOT_NEGATIVE] = 0
    """Height of the images, pixels; 0 is that of the training crop."""
    width: Annotated[int, NOT_NEGATIVE] = 0
    """Width of the images, pixels; 0 is that of the training crop."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def find(self) -> tuple[Paper, Recipe, tuple[int, int]]:
        """Return the paper, its recipe and the image size (height, width).

        Raises:
            InputError: if no installed paper has the recipe, or several have it and none is named.
        """
        papers = [load_paper(self.paper)] if self.paper else list(installed_papers().values())
        owners = [paper for paper in papers if self.recipe in paper.recipes]
        if not owners:
            names = " or ".join(f"`{paper.name}-train --list`" for paper in papers) or "installing a paper first"
            raise InputError(f"there is no recipe {self.recipe!r}; {names} prints the names")
        if len(owners) > 1:
            names = " or ".join(paper.name for paper in owners)
            raise InputError(f"several papers have a recipe {self.recipe!r}; add --paper {names}")
        (paper,) = owners
        recipe = paper.recipes[self.recipe]
        crop = recipe.augment.crop
        return paper, recipe, (self.height or crop[0], self.width or crop[1])
