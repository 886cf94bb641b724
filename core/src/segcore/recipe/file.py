"""A resolved recipe as a file: written into every work directory, accepted back instead of a recipe's name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from segcore.errors import InputError
from segcore.paper import Paper
from segcore.recipe import Recipe
from segcore.recipe.plain import from_plain, to_plain

FILE_NAME = "recipe.json"


def recipe_document(paper: str, name: str, recipe: Recipe, versions: Mapping[str, str]) -> str:
    """Return the JSON text of a resolved recipe."""
    content = {"paper": paper, "name": name, "versions": dict(versions), "recipe": to_plain(recipe)}
    return json.dumps(content, indent=1) + "\n"


def recipe_from_plain(paper: Paper, data: dict[str, Any], where: str) -> Recipe:
    """Build the recipe of `paper` from plain data; `model` becomes the paper's own options class.

    Raises:
        InputError: for unknown or missing entries, naming `where`.
    """
    rest = {key: value for key, value in data.items() if key != "model"}
    model = from_plain(paper.model_class, data.get("model", {}), f"{where}: model")
    placeholder = {**rest, "model": {"backbone": model.backbone}}
    return replace(from_plain(Recipe, placeholder, where), model=model)


def read_recipe(paper: Paper, path: str) -> tuple[str, Recipe] | None:
    """Read a recipe.json, or the one of a work directory; None where `path` is neither.

    Raises:
        InputError: if the file is not a recipe of this paper.
    """
    file = Path(path, FILE_NAME) if Path(path).is_dir() else Path(path)
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not a recipe: {error}") from error
    if not isinstance(content, dict) or not {"paper", "name", "recipe"} <= set(content):
        raise InputError(f"{file} is not a recipe: expected the entries paper, name and recipe")
    if content["paper"] != paper.name:
        raise InputError(f"{file} is a recipe of {content['paper']}, not of {paper.name}")
    return content["name"], recipe_from_plain(paper, content["recipe"], str(file))
