"""Dataclasses as plain data and back: what is written into recipe.json and into the header of weights files."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from segcore.errors import InputError, check


def to_plain(value: Any) -> Any:
    """Return a recipe (or a part of one) as JSON-ready dictionaries, lists, numbers and strings."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {str(k): to_plain(v) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, (tuple, list)):
        return [to_plain(v) for v in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def from_plain(cls: Any, data: Any, where: str = "recipe") -> Any:
    """Build `cls` from what `to_plain` gave; an unknown or missing name is an `InputError` that says where.

    Args:
        cls: a dataclass or the annotation of a field.
        data: plain data.
        where: dotted place of `data`, for messages.
    """
    if get_origin(cls) is Annotated:
        cls = get_args(cls)[0]
    if is_dataclass(cls):
        check(isinstance(data, dict), f"{where}: expected a table, got {data!r}")
        hints = get_type_hints(cls, include_extras=True)
        unknown = sorted(set(data) - {f.name for f in fields(cls)})
        check(not unknown, f"{where}: unknown entries {', '.join(unknown)}")
        values = {name: from_plain(hints[name], item, f"{where}.{name}") for name, item in data.items()}
        try:
            return cls(**values)  # pyright: ignore[reportCallIssue, reportUnknownVariableType]
        except TypeError as error:
            raise InputError(f"{where}: {error}") from error
    if get_origin(cls) is tuple:
        check(isinstance(data, list), f"{where}: expected a list, got {data!r}")
        inner = get_args(cls)
        kinds = [inner[0]] * len(data) if inner[-1] is Ellipsis else list(inner)
        check(len(kinds) == len(data), f"{where}: expected {len(kinds)} values, got {data!r}")
        return tuple(from_plain(kind, item, where) for kind, item in zip(kinds, data, strict=True))
    if get_origin(cls) is dict:
        check(isinstance(data, dict), f"{where}: expected a table, got {data!r}")
        return {name: from_plain(get_args(cls)[1], item, f"{where}.{name}") for name, item in data.items()}
    if cls is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    return _checked(cls, data, where)


def _checked(cls: Any, data: Any, where: str) -> Any:
    """Return a plain value that is what its annotation says."""
    if get_origin(cls) is Literal:
        check(data in get_args(cls), f"{where}: expected one of {', '.join(map(str, get_args(cls)))}, got {data!r}")
    elif isinstance(cls, type) and cls in (bool, int, float, str):
        is_same = isinstance(data, cls) and not (cls is not bool and isinstance(data, bool))
        check(is_same, f"{where}: expected {cls.__name__}, got {data!r}")
    return data
