"""Any valid recipe of any installed paper comes back equal from its file."""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import hypothesis.strategies as st
import pytest
from hypothesis import given, reject, settings

from segcore.errors import InputError
from segcore.paper import installed_papers
from segcore.recipe import Recipe
from segcore.recipe.file import RecipeFile, recipe_document, recipe_from_plain
from segcore.recipe.plain import from_json
from segcore.recipe.ranges import Range, ranges

PAPERS = installed_papers()
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


def values(hint: Any, allowed: Range | None) -> st.SearchStrategy[Any]:
    """Return values of an option by its annotation and its range."""
    kinds = get_args(hint)
    if hint is int and allowed:
        return st.integers(int(allowed.low), int(min(allowed.high, 2**63 - 1)))
    if hint is float and allowed:
        return st.floats(allowed.low, min(allowed.high, sys.float_info.max))
    if get_origin(hint) is Literal:
        return st.sampled_from(kinds)
    if get_origin(hint) is dict:
        return st.dictionaries(TEXT, values(kinds[1], allowed), max_size=3)
    if get_origin(hint) is tuple and kinds[-1] is Ellipsis:
        return st.lists(values(kinds[0], allowed), max_size=3).map(tuple)
    if get_origin(hint) is tuple:
        return st.tuples(*(values(kind, allowed) for kind in kinds))
    if get_origin(hint) in (UnionType, Union):  # the second where a Literal is in it
        return st.one_of(*(values(kind, allowed) for kind in kinds))
    return {bool: st.booleans(), str: TEXT, NoneType: st.none()}[hint]


@st.composite
def changed_recipes(draw: st.DrawFn, paper: str) -> Recipe:
    """Return a recipe of the paper with some options of each part changed, as far as they fit together."""
    recipe = PAPERS[paper].recipes[draw(st.sampled_from(sorted(PAPERS[paper].recipes)))]
    for section in (f.name for f in fields(Recipe)):
        part = getattr(recipe, section)
        hints, allowed = get_type_hints(type(part)), ranges(type(part))
        names = draw(st.lists(st.sampled_from([f.name for f in fields(part)]), max_size=3, unique=True))
        try:
            part = replace(part, **{name: draw(values(hints[name], allowed.get(name))) for name in names})
            recipe = replace(recipe, **{section: part})
        except InputError:  # each fits, but not to the others
            reject()
    return recipe


@pytest.mark.parametrize("name", sorted(PAPERS))
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_a_recipe_of_any_values_reads_back_equal(name: str, data: st.DataObject) -> None:
    recipe = data.draw(changed_recipes(name))
    document = from_json(RecipeFile, recipe_document(name, "changed", recipe, {"torch": "2"}), "x")
    assert (document.paper, document.name, document.versions) == (name, "changed", {"torch": "2"})
    assert recipe_from_plain(PAPERS[name], document.recipe, "x") == recipe
