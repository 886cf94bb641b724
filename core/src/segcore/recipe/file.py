"""A resolved recipe as a file: written into every work directory, accepted back instead of a recipe's name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, Protocol

from segcore.errors import InputError, check
from segcore.recipe import Model, Recipe
from segcore.recipe.plain import from_json, from_plain, to_plain

FILE_NAME = "recipe.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class PaperOptions(Protocol):
    """What is to be known of a paper (`segcore.paper.Paper`) to read its recipes."""

    @property
    def name(self) -> str: ...
    @property
    def model_class(self) -> type[Model]: ...


@dataclass(frozen=True, kw_only=True)
class RecipeFile:
    """What a recipe.json says."""

    paper: str
    name: str
    """Of the recipe that the run began from; names the next work directory, so it is a plain word."""
    versions: dict[str, str] = field(default_factory=dict[str, str])
    recipe: dict[str, Any]
    """Plain data of the resolved recipe, see `recipe_from_plain`."""

    def __post_init__(self) -> None:
        check(
            _NAME.fullmatch(self.name) is not None,
            f"the name must be a word of letters, digits, dots and hyphens, got {self.name!r}",
        )

    def text(self) -> str:
        """Return the content of the file."""
        return json.dumps(to_plain(self), indent=1) + "\n"


def recipe_document(paper: str, name: str, recipe: Recipe, versions: Mapping[str, str]) -> str:
    """Return the JSON text of a resolved recipe."""
    return RecipeFile(paper=paper, name=name, versions=dict(versions), recipe=to_plain(recipe)).text()


def recipe_from_plain(paper: PaperOptions, data: Any, where: str) -> Recipe:
    """Build the recipe of `paper` from plain data; `model` becomes the paper's own options class.

    Raises:
        InputError: for unknown, missing or impossible entries, naming `where`.
    """
    own = make_dataclass("Recipe", [("model", paper.model_class)], bases=(Recipe,), frozen=True, kw_only=True)
    return Recipe(**vars(from_plain(own, data, where)))


def read_recipe_file(file: Path) -> RecipeFile:
    """Read a recipe.json of any paper.

    Raises:
        InputError: if the file cannot be read or is no recipe.
    """
    try:
        text = file.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read {file}: {error.strerror or error}; a work directory of <paper>-train has one"
        ) from error
    return from_json(RecipeFile, text, str(file))


def read_recipe(paper: PaperOptions, path: str) -> tuple[str, Recipe] | None:
    """Read a recipe.json, or the one of a work directory; None where `path` is neither.

    Raises:
        InputError: if the file is not a recipe of this paper.
    """
    file = Path(path, FILE_NAME) if Path(path).is_dir() else Path(path)
    if not file.is_file():
        return None
    document = read_recipe_file(file)
    check(document.paper == paper.name, f"{file} is a recipe of {document.paper}, not of {paper.name}")
    return document.name, recipe_from_plain(paper, document.recipe, str(file))
