"""Names of a package that are loaded on first use, so that importing it, and every `--help`, loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any


def given_by(package: str, modules: Mapping[str, Collection[str]]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package that takes names from modules on first use.

    Args:
        modules: module -> names.
    """
    places = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(places[name]), name)

    return get
