"""`segcore compare run`: train and test several heads alike, with several seeds."""

from __future__ import annotations

import shlex

from segcore.commands.parsing import parse_options
from segcore.compare.study import Study

_DESCRIPTION = """Train every head on the same backbone, data order, augmentation, schedule and budget, each with its
paper's own losses, with several seeds, and test it. Every run is an ordinary run folder; one that fails is a row with
its sentence. The same command again goes on where it was stopped; --papers and --seeds may add to a study. Then:
segcore compare show WORK_DIR."""


def main(words: list[str]) -> int:
    """Run `segcore compare run`; returns the exit code: 1 where runs failed.

    Raises:
        InputError: for an impossible study, or one that the folder's other options contradict.
    """
    study = parse_options("segcore compare run", _DESCRIPTION, Study, words)
    from segcore.compare.runner import Runner  # only here, so --help is instant

    command = shlex.join(["segcore", "compare", "run", *words])
    code = Runner(study, command, lambda line: print(line, flush=True)).run()
    if code in (0, 1):
        print(f"now: segcore compare show {study.work_dir}")
    return code
