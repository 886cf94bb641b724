"""Dataclasses as plain data and back: what is written into recipe.json and into the header of weights files."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, is_dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from segcore.errors import InputError, check

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Return a recipe, or a part of one, as JSON-ready data; what is that already stays as it is."""
    if is_dataclass(value) and not isinstance(value, type):
        # not msgspec's own way back: of a value that it read, it leaves out what was at its default
        value = asdict(value)
    return json.loads(json.dumps(value))  # tuples become lists


def from_json(cls: type[T], text: str | bytes, where: str) -> T:
    """Build a dataclass from a JSON text, see `from_plain`.

    Raises:
        InputError: also for a text that is no JSON.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:  # malformed, not UTF-8, a number of too many digits, or nested deeply
        raise InputError(f"{where} is not readable as JSON: {error}") from error
    return from_plain(cls, data, where)


def from_plain(cls: type[T], data: Any, where: str = "recipe") -> T:
    """Build a dataclass from what `to_plain` gave: every name must be known, every type and number fit.

    Args:
        where: file or option that `data` is from, for messages.

    Raises:
        InputError: for the first entry that does not fit, with its dotted place.
    """
    try:
        value = msgspec.convert(data, cls)
        _check_entries(data, msgspec.to_builtins(value), "")
    except msgspec.ValidationError as error:
        words, _, place = str(error).replace("`", "").partition(" - at $")
        if "enum value" in words:  # the library's name of a Literal, whose choices it does not say
            words = words.replace("enum value", "value") + f", expected one of {_choices(cls, place)}"
        raise InputError(f"{where}: {_at(place)}{words[0].lower()}{words[1:]}") from error
    except InputError as error:  # also of the dataclasses' own checks
        raise InputError(f"{where}: {error}") from error
    except RecursionError as error:
        raise InputError(f"{where}: nested too deeply") from error
    except UnicodeEncodeError as error:  # in a name, which the library meets first
        raise InputError(f"{where}: {error.object!r} is no text: it holds half of a surrogate pair") from error
    return value


def _choices(cls: Any, place: str) -> str:
    for name in place.removeprefix(".").split("."):
        cls = get_type_hints(cls)[name]
    choices = (get_args(kind) if get_origin(kind) is Literal else (kind,) for kind in get_args(cls))
    return ", ".join(str(value) for kinds in choices for value in kinds)


def _check_entries(data: Any, known: Any, place: str) -> None:
    """Refuse names that were read over, and text that would break the first system call that it is given to."""
    if isinstance(data, str):
        check(is_text(data), f"{_at(place)}{data!r} is no text that a file can be named by")
    elif isinstance(data, dict):
        unknown = sorted(set(data) - set(known))
        check(not unknown, f"{_at(place)}unknown entries {', '.join(unknown)}")
        for name, entry in data.items():
            _check_entries(entry, known[name], f"{place}.{name}")
    elif isinstance(data, list | tuple):
        for i, entry in enumerate(data):
            _check_entries(entry, known[i], f"{place}[{i}]")


def is_text(value: str) -> bool:
    """Return whether a text can be part of a file's name and of its content."""
    try:
        return b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _at(place: str) -> str:
    return f"{place.removeprefix('.')}: " if place else ""
