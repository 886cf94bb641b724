"""`<paper>-train RECIPE`: train a recipe in its work directory."""

from __future__ import annotations

from segcore.commands.parsing import parse_recipe
from segcore.commands.running import Command, command
from segcore.paper import Paper


def train_command(paper: Paper) -> Command:
    """Return the console script that trains a paper's recipes."""
    program = f"{paper.name}-train"

    def run(words: list[str]) -> int:
        request = parse_recipe(program, paper, words)
        if request is None:
            return 0
        from segcore.training.loop import train  # torch loads only here, so --help is instant

        return train(paper, request.name, request.recipe).exit_code

    return command(program, run)
