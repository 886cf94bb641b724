"""Every number of a recipe has a stated range, and one sentence that names its option."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any, get_args, get_type_hints

import pytest

from segcore.errors import InputError
from segcore.paper import installed_papers
from segcore.recipe import Augment, Evaluate, Loss, Optim, Recipe, Schedule
from segcore.recipe.ranges import ranges
from tests.recipe.test_recipe import RECIPE

PARTS: dict[str, Any] = {f.name: getattr(RECIPE, f.name) for f in fields(Recipe)}
PARTS |= {f"{name} model": paper.recipes["toy"].model for name, paper in installed_papers().items()}
NUMBERS = [(part, name) for part, value in PARTS.items() for name in ranges(type(value))]


def is_numeric(hint: Any) -> bool:
    """Return whether an annotation holds int or float; the choices of a Literal are values, not types."""
    return hint in (int, float) or any(is_numeric(inner) for inner in get_args(hint) if not isinstance(inner, str))


def filled(value: Any, number: float) -> Any:
    """Return an option's value with every number in it replaced; an empty tuple or table gets one."""
    if isinstance(value, dict):
        return {"head": number}
    if isinstance(value, tuple):
        return tuple(filled(item, number) for item in value) or (number,)
    return number


@pytest.mark.parametrize("part", PARTS)
def test_no_number_is_without_a_range(part: str) -> None:
    cls = type(PARTS[part])
    hints = get_type_hints(cls)
    assert {f.name for f in fields(cls) if is_numeric(hints[f.name])} == set(ranges(cls))


@pytest.mark.parametrize(("part", "name"), NUMBERS, ids=lambda word: word.replace(" ", "-"))
def test_a_number_out_of_range_is_refused_by_the_name_of_its_option(part: str, name: str) -> None:
    value, allowed = PARTS[part], ranges(type(PARTS[part]))[name]
    option = f"--{part.split()[-1]}.{name.replace('_', '-')} must"
    outside = [allowed.low - 1, *([] if math.isinf(allowed.high) else [allowed.high + 1])]
    for number in (math.nan, math.inf, -math.inf, 2**63, *outside):
        with pytest.raises(InputError) as error:
            replace(value, **{name: filled(getattr(value, name), number)})
        assert str(error.value).startswith(option)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Optim(lr=-1), "--optim.lr must be positive, got -1"),
        (lambda: Optim(lr=math.nan), "--optim.lr must be a finite 64-bit number, got nan"),
        (lambda: Optim(lr=1, betas=(0.9, 1.0)), "--optim.betas must be in [0, 1), got (0.9, 1.0)"),
        (lambda: Optim(lr=1, lr_mult={"a": -2.0}), "--optim.lr-mult must not be negative, got {'a': -2.0}"),
        (lambda: Loss(ohem_threshold=-3), "--loss.ohem-threshold must be in [0, 1], got -3"),
        (lambda: Schedule(iterations=0), "--schedule.iterations must be at least 1, got 0"),
        (lambda: Schedule(iterations=1, warmup_ratio=-4), "--schedule.warmup-ratio must be in [0, 1], got -4"),
        (lambda: Schedule(iterations=1, kind="step"), "--schedule.kind step needs --schedule.step"),
        (
            lambda: Schedule(iterations=1, warmup_kind="exp", warmup_ratio=0),
            "--schedule.warmup-kind exp multiplies: it needs a --schedule.warmup-ratio above 0",
        ),
        (lambda: Augment(ratio=(2.0, 0.5)), "--augment.ratio must be two numbers low <= high, got (2.0, 0.5)"),
        (lambda: Augment(flip_pairs=((1, -2),)), "--augment.flip-pairs must not be negative, got ((1, -2),)"),
        (lambda: Evaluate(aug_ratios=(0.0,)), "--evaluate.aug-ratios must be positive, got (0.0,)"),
        (lambda: Evaluate(aug_ratios=()), "--evaluate.aug-ratios needs at least one factor"),
        (lambda: Evaluate(ratios=()), "--evaluate.ratios needs at least one factor"),
        (
            lambda: Evaluate(mode="slide", crop=(8, 8), stride=(9, 9)),
            "--evaluate.stride (9, 9) exceeds the crop (8, 8)",
        ),
    ],
)
def test_the_sentence_says_what_was_expected_and_what_came(build: Any, sentence: str) -> None:
    with pytest.raises(InputError) as error:
        build()
    assert str(error.value) == sentence


def test_the_ends_of_a_range_belong_to_it() -> None:
    assert Loss(ohem_threshold=0.0).ohem_threshold == 0
    assert Loss(ohem_threshold=1.0).ohem_threshold == 1
    assert Optim(lr=5e-324, momentum=0.0).momentum == 0
    assert Optim(lr=1.0, momentum=1 - 2**-53).momentum < 1
