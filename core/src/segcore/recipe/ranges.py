"""Which numbers an option may have: stated beside its type, checked whenever the options are made.

`lr: Annotated[float, POSITIVE]` is all that an option needs; the range holds for every number of a tuple or table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from typing import Any, get_type_hints

from segcore.errors import check


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included, and the words that say so: "must ..."."""

    words: str
    low: float
    high: float = math.inf


POSITIVE = Range("be positive", math.nextafter(0, 1))
NOT_NEGATIVE = Range("not be negative", 0)
AT_LEAST_1 = Range("be at least 1", 1)
SHARE = Range("be in [0, 1]", 0, 1)
BELOW_1 = Range("be in [0, 1)", 0, math.nextafter(1, 0))
BYTE = Range("be an 8-bit value", 0, 255)


@cache
def ranges(part: type) -> Mapping[str, Range]:
    """Return the range of each option of a dataclass that states one."""
    hints = get_type_hints(part, include_extras=True)
    marks = ((name, mark) for name, hint in hints.items() for mark in getattr(hint, "__metadata__", ()))
    return {name: mark for name, mark in marks if isinstance(mark, Range)}


def check_ranges(part: object, section: str = "") -> None:
    """Refuse numbers outside their stated range; called in `__post_init__`, before checks of options together.

    Args:
        part: dataclass instance: a section of a recipe, or the options of a command.
        section: of the recipe, as in --SECTION.OPTION.

    Raises:
        InputError: naming the option.
    """
    for name, allowed in ranges(type(part)).items():
        value = getattr(part, name)
        option = "--" + ".".join(filter(None, (section, name))).replace("_", "-")
        for number in _numbers(value):
            is_finite = abs(number) < 2**63 if isinstance(number, Integral) else math.isfinite(number)
            check(is_finite, f"{option} must be a finite 64-bit number, got {value}")
            check(allowed.low <= number <= allowed.high, f"{option} must {allowed.words}, got {value}")


def _numbers(value: Any) -> Iterator[float]:
    """Yield every number of an option's value; None and text have none."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, Real):
        yield value  # pyright: ignore[reportReturnType]
