"""The commands that every paper has: `<paper>-train`, `<paper>-test`, `<paper>-predict`.

The first argument names a recipe; everything else is an option of it (`--section.field value`). Nothing here imports
torch before a command really runs, so that `--help` is instant.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass, replace
from difflib import get_close_matches
from functools import partial
from typing import Annotated, Any, ClassVar, Protocol, get_args, get_origin, get_type_hints

import tyro

from segcore.errors import InputError, check
from segcore.paper import Paper
from segcore.recipe import Recipe, Schedule
from segcore.recipe.file import read_recipe


@dataclass(frozen=True, kw_only=True)
class TestOptions:
    """How to test."""

    __test__: ClassVar[bool] = False  # its name is no test of pytest's

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """Weights: ours (.safetensors) or a published .pth."""
    eval: tuple[str, ...] = ("mIoU",)
    """Scores to print: mIoU, mDice, mFscore, cityscapes (class and category averages of its tools)."""
    aug_test: bool = False
    """Multi-scale + flip: the recipe's --evaluate.aug-ratios and --evaluate.aug-flip."""
    out: str = ""
    """Folder for the predicted label maps (8-bit PNG of train ids)."""
    format_only: bool = False
    """Write the predictions in the encoding of the data set's test server into --out, without scoring."""
    show_dir: str = ""
    """Folder for overlays of the predictions on the images."""
    opacity: float = 0.5
    """Opacity of the overlays, 0 to 1."""
    unsafe: bool = False
    """Unpickle a .pth that holds more than tensors: runs code of the file, only for files you made yourself."""


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What to predict on."""

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """Weights: ours (.safetensors) or a published .pth."""
    inputs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="INPUT [INPUT ...]")]
    """Images, folders of images, or a video file."""
    out: str = "predictions"
    """Folder for label maps (palette PNG) and, for a video, the overlay video."""
    show_dir: str = ""
    """Folder for overlays; empty writes them beside the label maps."""
    opacity: float = 0.5
    """Opacity of the overlays, 0 to 1."""
    aug_test: bool = False
    """Multi-scale + flip."""
    unsafe: bool = False
    """Unpickle a .pth that holds more than tensors: runs code of the file, only for files you made yourself."""


@dataclass(frozen=True, kw_only=True)
class _NoOptions:
    pass


@dataclass(frozen=True)
class Request:
    """A parsed command line."""

    name: str
    """Name of the recipe."""
    recipe: Recipe
    options: Any
    """TestOptions, PredictOptions or nothing."""


_RULES = tyro.constructors.ConstructorRegistry()
_WORDS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False, "on": True, "off": False}


@_RULES.primitive_rule
def _boolean(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[bool] | None:
    """Read booleans as true or false in any case (tyro's own rule wants Python's capitals)."""
    if info.type is not bool:
        return None

    def read(words: list[str]) -> bool:
        if words[0].lower() not in _WORDS:
            raise ValueError(f"expected true or false, got {words[0]!r}")
        return _WORDS[words[0].lower()]

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="{true,false}",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, bool),
        str_from_instance=lambda value: ["true" if value else "false"],
    )


@_RULES.primitive_rule
def _factors(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[dict[str, float]] | None:
    """Read a table of factors as NAME=FACTOR words; it replaces the recipe's table."""
    if info.type_origin is not dict:
        return None

    def read(words: list[str]) -> dict[str, float]:
        pairs = [word.rpartition("=") for word in words]
        wrong = [word for word, (name, _, _) in zip(words, pairs, strict=True) if not name]
        if wrong:
            raise ValueError(f"expected NAME=FACTOR, got {wrong[0]!r}")
        return {name: float(factor) for name, _, factor in pairs}

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[NAME=FACTOR ...]",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [f"{name}={factor:g}" for name, factor in value.items()],
    )


def _boolean_options(value: Any, prefix: str = "") -> set[str]:
    """Return the option names (with aliases, with hyphens) of every boolean field of a dataclass instance or class."""
    cls = value if isinstance(value, type) else type(value)
    names: set[str] = set()
    for name, hint in get_type_hints(cls, include_extras=True).items():
        inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if is_dataclass(inner):
            nested = inner if isinstance(value, type) else getattr(value, name)
            names |= _boolean_options(nested, f"{prefix}{name}.")
        elif inner is bool:
            names.add(f"--{prefix}{name}".replace("_", "-"))
            for extra in get_args(hint)[1:]:
                names |= set(getattr(extra, "aliases", None) or ())
    return names


def _spell_out_flags(argv: Sequence[str], flags: set[str]) -> list[str]:
    """Let `--resume` stand for `--resume true`."""
    result: list[str] = []
    for i, word in enumerate(argv):
        result.append(word)
        following = argv[i + 1].lower() if i + 1 < len(argv) else "--"
        if word.replace("_", "-") in flags and following not in _WORDS:
            result.append("true")
    return result


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


def _overview(program: str, paper: Paper, arguments: str) -> str:
    return (
        f"usage: {' '.join(filter(None, (program, 'RECIPE', arguments)))} [--section.field VALUE ...]\n\n"
        f"{paper.title}\n\n"
        f"RECIPE is one of the names below, or a recipe.json or work directory of an earlier run.\n"
        f"`{program} RECIPE --help` lists every option; --list prints this table; --debug shows tracebacks.\n"
        f"Figures are the published ones.\n\n{recipe_table(paper)}"
    )


def parse(program: str, paper: Paper, argv: Sequence[str], options: type = _NoOptions) -> Request | None:
    """Parse a command line; prints and returns None where it only asks for help or the list.

    Raises:
        InputError: for an unknown recipe or an impossible value. tyro itself exits with code 2 on unknown options.
    """
    arguments = " ".join(f.name.upper() for f in fields(options) if f.name in ("checkpoint", "inputs"))
    if not argv or argv[0] in ("-h", "--help", "--list"):
        print(recipe_table(paper) if argv and argv[0] == "--list" else _overview(program, paper, arguments))
        if not argv:
            raise InputError(f"a recipe is needed as the first argument, for example {next(iter(paper.recipes))}")
        return None
    name, default = _find_recipe(paper, argv[0])
    if not default.run.work_dir:
        default = replace(default, run=replace(default.run, work_dir=f"work_dirs/{paper.name}-{name}"))

    unprefixed = tyro.conf.arg(name="")
    parts = [
        ("options", Annotated[options, unprefixed]),
        ("recipe", Annotated[Recipe, unprefixed], field(default=default)),
    ]
    words = _spell_out_flags(argv[1:], _boolean_options(default) | _boolean_options(options))
    command = tyro.cli(
        make_dataclass("Command", parts, frozen=True, kw_only=True),
        prog=f"{program} {argv[0]}",
        description=f"{paper.title}. Recipe {name}.",
        args=words,
        registry=_RULES,
        config=(tyro.conf.FlagConversionOff,),
    )
    _check_warmup(default.schedule, command.recipe.schedule)
    return Request(name, command.recipe, command.options)


def _check_warmup(default: Schedule, asked: Schedule) -> None:
    """Refuse a warmup that never ends, unless it is the recipe's own and the run is only cut short to try it."""
    is_ending = asked.epochs > 0 or asked.warmup <= max(asked.iterations, default.warmup)
    check(
        is_ending,
        f"--schedule.warmup must not be longer than the {asked.iterations} iterations of the run, got {asked.warmup}",
    )


def _find_recipe(paper: Paper, word: str) -> tuple[str, Recipe]:
    if word in paper.recipes:
        return word, paper.recipes[word]
    if word.startswith("-"):
        raise InputError(f"the first argument must be a recipe, got {word!r}; --list prints them")
    saved = read_recipe(paper, word)
    if saved is not None:
        return saved
    close = get_close_matches(word, paper.recipes, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else "--list prints them"
    raise InputError(f"{paper.name} has no recipe {word!r} (nor is it a recipe.json or work directory); {hint}")


def run_guarded(program: str, argv: Sequence[str] | None, body: Callable[[list[str]], int]) -> int:
    """Run a command: what a user caused becomes one sentence and exit code 2 (with `--debug`, a traceback as well)."""
    # Threads that wait for each other spin only briefly: two runs on two cores then share them instead of starving
    # each other (measured: 15 images/s each instead of 2), for 7 % of the speed of a run alone.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    words = list(sys.argv[1:] if argv is None else argv)
    code = _run(program, words, body)
    if argv is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # torch's threads of the process group may abort a process that is being torn down (seen with gloo): leave now
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _run(program: str, words: list[str], body: Callable[[list[str]], int]) -> int:
    is_debug = "--debug" in words
    try:
        return body([word for word in words if word != "--debug"])
    except InputError as error:
        if is_debug:
            traceback.print_exc()
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130


def train_command(paper: Paper, argv: Sequence[str] | None = None) -> int:
    """Train a recipe."""
    program = f"{paper.name}-train"

    def body(words: list[str]) -> int:
        request = parse(program, paper, words)
        if request is None:
            return 0
        from segcore.training.loop import train  # torch loads only here, so --help is instant

        return train(paper, request.name, request.recipe).exit_code

    return run_guarded(program, argv, body)


def test_command(paper: Paper, argv: Sequence[str] | None = None) -> int:
    """Test a checkpoint with a recipe's data and protocol."""
    program = f"{paper.name}-test"

    def body(words: list[str]) -> int:
        request = parse(program, paper, words, TestOptions)
        if request is None:
            return 0
        from segcore.commands.test import test  # torch loads only here, so --help is instant

        test(paper, request.name, request.recipe, request.options)
        return 0

    return run_guarded(program, argv, body)


def predict_command(paper: Paper, argv: Sequence[str] | None = None) -> int:
    """Predict on the user's own images, folders or video."""
    program = f"{paper.name}-predict"

    def body(words: list[str]) -> int:
        request = parse(program, paper, words, PredictOptions)
        if request is None:
            return 0
        from segcore.commands.test import predict  # torch loads only here, so --help is instant

        predict(paper, request.name, request.recipe, request.options)
        return 0

    return run_guarded(program, argv, body)


class Command(Protocol):
    """A console script: the words after its name, or those of this process -> exit code."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


def commands(paper: Paper) -> tuple[Command, Command, Command]:
    """Return a paper's three console scripts: train, test, predict."""
    return partial(train_command, paper), partial(test_command, paper), partial(predict_command, paper)
