"""`<paper>-train RECIPE`, `segcore train PAPER RECIPE`: train a recipe in its work directory."""

from __future__ import annotations

import os
from pathlib import Path

from segcore.commands.parsing import parse_recipe
from segcore.commands.running import Command, command
from segcore.data import create_dataset
from segcore.errors import InputError
from segcore.paper import Paper, installed_papers, load_paper
from segcore.recipe import Recipe
from segcore.weights.header import require_checkpoint


def train_command(paper: Paper) -> Command:
    """Return the console script that trains a paper's recipes."""
    program = f"{paper.name}-train"
    return command(program, lambda words: _train(program, paper, words))


def main(words: list[str]) -> int:
    """Run `segcore train PAPER RECIPE`; returns the exit code.

    Raises:
        InputError: if the paper is not installed; see also `segcore.training.loop.train`.
    """
    if not words or words[0] in ("-h", "--help"):
        papers = [f"  {paper.name.ljust(10)} {paper.title}" for paper in installed_papers().values()]
        print("\n".join(["usage: segcore train PAPER RECIPE [--section.field VALUE ...]", "", *papers, ""]))
        print("`segcore train PAPER --list` prints the recipes of a paper, as <paper>-train --list does.")
        if not words:
            raise InputError("a paper is needed as the first argument")
        return 0
    paper = load_paper(words[0])
    return _train(f"segcore train {paper.name}", paper, words[1:])


def _train(program: str, paper: Paper, words: list[str]) -> int:
    request = parse_recipe(program, paper, words)
    if request is None:
        return 0
    _check_start(request.recipe)
    from segcore.training.loop import train  # torch loads only here, so --help is instant

    return train(paper, request.name, request.recipe).exit_code


def _check_start(recipe: Recipe) -> None:
    """Refuse what can be told before torch is loaded, which takes seconds; the training checks everything."""
    from segcore.training.run_folder import continues, refuse_run

    run, data = recipe.run, recipe.data
    if os.environ.get("RANK", "0") == "0" and not continues(run):  # the first process decides
        refuse_run(Path(run.work_dir))
    for path in filter(None, (run.load_from, run.resume_from, recipe.model.weights)):
        require_checkpoint(Path(path))
    # the smaller part tells where the data set is not there
    dataset = create_dataset(data, run.data, data.val_split, list_file=data.val_list, check_files=False)
    recipe.check_classes(len(dataset.classes.names))
