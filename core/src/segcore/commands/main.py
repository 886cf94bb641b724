"""`segcore`: the commands that belong to no single paper, or find it in their words."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module

from segcore import __version__
from segcore.commands.running import enter_run, leave_run, run_guarded
from segcore.errors import InputError

Table = Mapping[str, tuple[str, str]]
"""Command -> module with `main(words) -> int`, or with a table `COMMANDS` of its own, and its line of help."""

COMMANDS: Table = {
    "train": ("segcore.commands.train", "train a recipe of a paper"),
    "test": ("segcore.commands.test", "score a checkpoint of ours: it holds its recipe"),
    "predict": ("segcore.commands.predict", "label maps and overlays of your images by a checkpoint of ours"),
    "data": ("segcore.commands.data", "list the data sets, prepare one, check one: counts, histogram, faults"),
    "score": ("segcore.commands.score", "score a folder of predicted label maps"),
    "convert": ("segcore.commands.convert", "turn a published .pth checkpoint into ours"),
    "check": ("segcore.commands.check", "tell whether weights and states are whole"),
    "export": (
        "segcore.commands.export",
        "write a trained network as torch.export program, ONNX or a page for browsers",
    ),
    "web": ("segcore.commands.web", "serve the page that export --web writes: networks in the browser"),
    "count": ("segcore.commands.count", "parameters and multiply-adds of a recipe's network"),
    "bench": ("segcore.commands.bench", "time a recipe's network on this machine"),
    "compare": ("segcore.commands.compare", "which head is best on your data: study, statistics, page"),
    "report": ("segcore.commands.report", "HTML page of a work directory: curves, scores, gallery"),
    "demo": ("segcore.commands.demo", "train, test and report on generated scenes in a few minutes"),
}
_FOOT = """
`segcore COMMAND --help` explains one; --debug shows tracebacks. Every paper has <paper>-train, <paper>-test and
<paper>-predict besides: they name the recipe, and take published checkpoints."""


def overview(program: str, table: Table) -> str:
    """Return the help text of a table of commands."""
    width = max(map(len, table))
    lines = [f"  {name.ljust(width)}  {text}" for name, (_, text) in table.items()]
    foot = _FOOT if program == "segcore" else f"\n`{program} COMMAND --help` explains one."
    return "\n".join([f"usage: {program} COMMAND ...", "", *lines, foot])


def main(argv: Sequence[str] | None = None) -> int:
    """Run `segcore COMMAND ...`; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--version"]:
        print(f"segcore {__version__}")
        return 0
    if argv is None:
        enter_run("segcore")
    code = _choose("segcore", COMMANDS, words)
    if argv is None:
        leave_run(code)
    return code


def _choose(program: str, table: Table, words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(overview(program, table))
        return 0 if words else 2
    name, rest = words[0], words[1:]
    if name not in table:
        return run_guarded(program, words, lambda _: _refuse(name, table))
    module = import_module(table[name][0])
    inner: Table | None = getattr(module, "COMMANDS", None)
    if inner is not None:
        return _choose(f"{program} {name}", inner, rest)
    body: Callable[[list[str]], int] = module.main
    return run_guarded(f"{program} {name}", rest, body)


def _refuse(name: str, table: Table) -> int:
    close = get_close_matches(name, table, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the commands are {', '.join(table)}"
    raise InputError(f"unknown command {name!r}; {hint}")


if __name__ == "__main__":
    sys.exit(main())
