"""How the words of a command become an options object: one library, tyro, for all of them.

The options of a command are a frozen dataclass beside it, whose field texts are its help. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from segcore.commands.foreign import explain_foreign
from segcore.commands.own import fitted
from segcore.commands.recipes import find_recipe, recipe_of_checkpoint, recipe_table
from segcore.errors import InputError, check
from segcore.paper import Paper
from segcore.recipe import Recipe, Schedule
from segcore.recipe.protocols import OWN_RECIPE

Options = TypeVar("Options")
PATH = tyro.conf.Positional[str]
"""A word that needs no option before it; `Annotated[PATH, tyro.conf.arg(metavar=...)]` names it."""


@dataclass(frozen=True)
class Request:
    """The words of a command that works on a recipe."""

    paper: Paper
    name: str
    """Name of the recipe."""
    recipe: Recipe
    options: Any
    """The command's own options, beside those of the recipe."""


@dataclass(frozen=True, kw_only=True)
class _NoOptions:
    pass


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


def _option_types(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return option name (aliases too, with hyphens) -> type of every option of a dataclass instance or class."""
    hints = get_type_hints(value if isinstance(value, type) else type(value), include_extras=True)
    found: dict[str, Any] = {}
    for part in fields(value):
        hint = hints[part.name]
        inner, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if tyro.conf.Positional in extras or tyro.conf.Suppress in extras:
            continue
        if is_dataclass(inner):
            nested = inner if isinstance(value, type) else getattr(value, part.name)
            found |= _option_types(nested, f"{prefix}{part.name}.")
        else:
            found[f"--{prefix}{part.name}".replace("_", "-")] = inner
            for extra in extras:
                found |= dict.fromkeys(getattr(extra, "aliases", None) or (), inner)
    return found


def _spell_out_flags(argv: Sequence[str], types: Mapping[str, Any]) -> list[str]:
    """Let `--resume` stand for `--resume true`; `types` are those of the options."""
    flags = {name for name, kind in types.items() if kind is bool}
    result: list[str] = []
    for i, word in enumerate(argv):
        result.append(word)
        following = argv[i + 1].lower() if i + 1 < len(argv) else "--"
        if word.replace("_", "-") in flags and following not in _WORDS:
            result.append("true")
    return result


def parse_options(program: str, description: str, options: type[Options], words: Sequence[str]) -> Options:
    """Return the options of a command; tyro itself prints help or exits with code 2 on a wrong word."""
    return tyro.cli(
        options,
        prog=program,
        description=description,
        args=_spell_out_flags(words, _option_types(options)),
        registry=_RULES,
        config=(tyro.conf.FlagConversionOff,),
    )


def _overview(program: str, paper: Paper, arguments: str) -> str:
    return (
        f"usage: {' '.join(filter(None, (program, 'RECIPE', arguments)))} [--section.field VALUE ...]\n\n"
        f"{paper.title}\n\n"
        f"RECIPE is one of the names below, or a recipe.json or work directory of an earlier run.\n"
        f"`{program} RECIPE --help` lists every option; --list prints this table; --debug shows tracebacks.\n"
        f"Figures are the published ones.\n\n{recipe_table(paper)}"
    )


def _arguments(options: type) -> str:
    return " ".join(f.name.upper() for f in fields(options) if f.name in ("checkpoint", "inputs"))


def parse_recipe(program: str, paper: Paper, words: Sequence[str], options: type = _NoOptions) -> Request | None:
    """Parse RECIPE, the command's own options and those of the recipe; None where only help or the list is asked for.

    Raises:
        InputError: for an unknown recipe or an impossible value. tyro itself exits with code 2 on unknown options.
    """
    if not words or words[0] in ("-h", "--help", "--list"):
        print(recipe_table(paper) if words and words[0] == "--list" else _overview(program, paper, _arguments(options)))
        if not words:
            raise InputError(f"a recipe is needed as the first argument, for example {next(iter(paper.recipes))}")
        return None
    name, default = find_recipe(paper, words[0])
    if not default.run.work_dir:
        default = replace(default, run=replace(default.run, work_dir=f"work_dirs/{paper.name}-{name}"))
    asked = _parse(f"{program} {words[0]}", Request(paper, name, default, options), words[1:])
    if words[0] != OWN_RECIPE or words[0] not in paper.recipes:
        return asked
    default = fitted(paper, default, asked.recipe, words[1:])
    return _parse(f"{program} {words[0]}", Request(paper, name, default, options), words[1:])


def parse_checkpoint(program: str, about: str, words: Sequence[str], options: type) -> Request | None:
    """Parse the words of a command whose first one is a checkpoint of ours; None where only help is asked for.

    The options of the recipe in the file are the defaults.

    Raises:
        InputError: for a file that cannot be read or is not ours, or an impossible value.
    """
    if not words or words[0] in ("-h", "--help"):
        print(
            f"usage: {program} {_arguments(options)} [--section.field VALUE ...]\n\n{about}\n\n"
            "CHECKPOINT is a weights file of ours (.safetensors), which says its paper and its recipe.\n"
            f"`{program} CHECKPOINT --help` lists every option; --debug shows tracebacks.\n"
            "Published files (.pth) do not say theirs: <paper>-test and <paper>-predict take them with a recipe."
        )
        if not words:
            raise InputError("a checkpoint is needed as the first argument")
        return None
    if words[0].startswith("-"):
        raise InputError(f"the first argument must be a checkpoint, got {words[0]!r}")
    return _parse(program, Request(*recipe_of_checkpoint(Path(words[0])), options), words)


def _parse(program: str, asked: Request, words: Sequence[str]) -> Request:
    """Return what is asked for with the words' options; its `options` are a class before."""
    default, options = asked.recipe, asked.options
    types = _option_types(default) | _option_types(options)
    explain_foreign(words, types)
    unprefixed = tyro.conf.arg(name="")
    parts = [
        ("options", Annotated[options, unprefixed]),
        ("recipe", Annotated[Recipe, unprefixed], field(default=default)),
    ]
    parsed = tyro.cli(
        make_dataclass("Command", parts, frozen=True, kw_only=True),
        prog=program,
        description=f"{asked.paper.title}. Recipe {asked.name}.",
        args=_spell_out_flags(words, types),
        registry=_RULES,
        config=(tyro.conf.FlagConversionOff,),
    )
    _check_warmup(default.schedule, parsed.recipe.schedule)
    return Request(asked.paper, asked.name, parsed.recipe, parsed.options)


def _check_warmup(default: Schedule, asked: Schedule) -> None:
    """Refuse a warmup that never ends, unless it is the recipe's own and the run is only cut short to try it."""
    is_ending = asked.epochs > 0 or asked.warmup <= max(asked.iterations, default.warmup)
    check(
        is_ending,
        f"--schedule.warmup must not be longer than the {asked.iterations} iterations of the run, got {asked.warmup}",
    )
