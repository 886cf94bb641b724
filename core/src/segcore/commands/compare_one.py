"""`segcore compare one`: one run of a study in one process, since starting a process takes its time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from segcore.commands.compare_cost import write_cost
from segcore.commands.parsing import parse_options
from segcore.commands.test import TestOptions, test
from segcore.compare.runner import DONE
from segcore.errors import check
from segcore.paper import load_paper
from segcore.recipe.file import read_recipe
from segcore.training.run_folder import holds_run
from segcore.weights.header import find_weights

_DESCRIPTION = """Train, test and measure one run of a study, as `segcore compare run` does it: from its last state
where it has one."""


@dataclass(frozen=True, kw_only=True)
class OneOptions:
    """Which run, and what of it."""

    paper: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PAPER")]
    """Paper of the recipe."""
    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")]
    """File of the complete recipe."""
    steps: tuple[Literal["train", "test", "test-aug", "cost"], ...] = ("train", "test", "cost")
    """What to do, in this order."""


def main(words: list[str]) -> int:
    """Run `segcore compare one`; returns the exit code.

    Raises:
        InputError: as the trainings and tests of a paper do.
    """
    options = parse_options("segcore compare one", _DESCRIPTION, OneOptions, words)
    paper = load_paper(options.paper)
    found = read_recipe(paper, options.recipe)
    check(found is not None, f"there is no recipe file {options.recipe}; segcore compare run writes it")
    assert found is not None
    name, recipe = found
    folder = Path(recipe.run.work_dir)
    for step in options.steps:
        if step == "train":
            from segcore.training.loop import train  # torch loads only here, so --help is instant

            resumed = replace(recipe, run=replace(recipe.run, resume=holds_run(folder)))
            code = train(paper, name, resumed).exit_code
            if code:
                return code
        elif step == "cost":
            write_cost(find_weights(folder))
        else:
            test(paper, name, recipe, TestOptions(checkpoint=str(find_weights(folder)), aug_test=step == "test-aug"))
        print(f"{DONE}{step}", flush=True)
    return 0
