"""The model card of a network: the README.md of its repository."""

from __future__ import annotations

import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from segcore.hub.origin import SUMMARY, UNKNOWN, Origin, Score, conditions
from segcore.recipe import Data, Evaluate, Published
from segcore.recipe.plain import from_plain

MARK = "<!-- made by segcore; without this line the page is yours and stays as it is -->"
_MARKUP = re.compile(r"[^\w .,:;+%()'/-]")


def render(origin: Origin, name: str, parameters: int) -> str:
    """Return the card as Markdown, with the hub's fields in front.

    Args:
        name: of the repository.
        parameters: how many the network has.
    """
    meta = origin.meta
    data = from_plain(Data, meta.recipe["data"])
    protocol = from_plain(Evaluate, meta.recipe["evaluate"])
    last = conditions(data.dataset, data.val_split, protocol)
    validated = [Score(name, meta.scores[name], f"{last}; last validation") for name in SUMMARY if name in meta.scores]
    return _template().render(
        meta=meta,
        origin=origin,
        data=data,
        protocol=conditions(data.dataset, data.test_split, protocol),
        published=from_plain(Published, meta.recipe["published"]),
        scores=[*origin.scores, *validated],
        options=meta.recipe["model"],
        name=name,
        parameters=parameters,
        is_licensed=origin.license != UNKNOWN,
        mark=MARK,
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("segcore.hub"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["words"] = _words
    return environment.get_template("card.md")


def _words(value: object) -> str:
    """Return a text as plain words: a name out of somebody's file must not become markup."""
    return " ".join(_MARKUP.sub(" ", str(value)).split())
