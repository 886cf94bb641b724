"""`segcore`: the commands that belong to no single paper."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module

from segcore import __version__
from segcore.commands.parsing import run_guarded
from segcore.errors import InputError

COMMANDS: dict[str, tuple[str, str]] = {
    "data": ("segcore.commands.data", "list the data sets, prepare one, check one: counts, histogram, faults"),
    "score": ("segcore.commands.score", "score a folder of predicted label maps"),
    "convert": ("segcore.commands.convert", "turn a published .pth checkpoint into ours"),
    "export": ("segcore.commands.export", "write a trained network as torch.export program or ONNX"),
    "count": ("segcore.commands.count", "parameters and multiply-adds of a recipe's network"),
    "bench": ("segcore.commands.bench", "time a recipe's network on this machine"),
    "report": ("segcore.commands.report", "HTML page of a work directory: curves, scores, gallery"),
    "demo": ("segcore.commands.demo", "train, test and report on generated scenes in a few minutes"),
}
"""Command -> module with `main(argv) -> int`, and its line of help."""


def overview() -> str:
    """Return the help text."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: segcore COMMAND ...",
            "",
            *lines,
            "",
            "`segcore COMMAND --help` explains one; --debug shows tracebacks. Training, testing and prediction are the",
            "commands of each paper: <paper>-train, <paper>-test, <paper>-predict.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run `segcore COMMAND ...`; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"segcore {__version__}")
        return 0

    def unknown(_: list[str]) -> int:
        close = get_close_matches(words[0], COMMANDS, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; the commands are {', '.join(COMMANDS)}"
        raise InputError(f"unknown command {words[0]!r}{hint}")

    if words[0] not in COMMANDS:
        return run_guarded("segcore", words, unknown)

    def body(rest: list[str]) -> int:
        command: Callable[[list[str]], int] = import_module(COMMANDS[words[0]][0]).main
        return command(rest)

    return run_guarded(f"segcore {words[0]}", words[1:], body)


if __name__ == "__main__":
    sys.exit(main())
