"""Formulas that cases hold as text, such as `RandomState(seed).rand(*shape) * 1.6 - 0.3` or `label >= classes // 2`.

The text is parsed, never executed: numbers, arithmetic, comparisons, the names that are passed in, calls of those that
are functions, and numpy's random draws.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np

_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.USub: operator.neg, ast.UAdd: operator.pos,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.And: np.logical_and, ast.Or: np.logical_or,
}  # fmt: skip
_NUMBER = r"[-+]?\d*\.?\d+"
_DRAWS = ("rand", "randn", "randint")


def evaluate(text: str, **names: Any) -> Any:
    """Return the value of a formula.

    Args:
        names: values and functions that it may use, beside `RandomState` and `float32`.

    Raises:
        ValueError: if it is no formula, or uses a name that is not there.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
        return _value(tree.body, {"RandomState": np.random.RandomState, "float32": np.float32, **names})
    except (SyntaxError, LookupError, TypeError) as error:
        raise ValueError(f"cannot read the formula {text!r}: {error}") from error


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    match node:
        case ast.Constant(value):
            return value
        case ast.Name(name):
            return names[name]
        case ast.Tuple(parts) | ast.List(parts):
            return tuple(_arguments(parts, names))
        case ast.UnaryOp(op, part):
            return _OPERATORS[type(op)](_value(part, names))
        case ast.BinOp(left, op, right):
            return _OPERATORS[type(op)](_value(left, names), _value(right, names))
        case ast.BoolOp(op, [first, *others]):
            result = _value(first, names)
            for part in others:
                result = _OPERATORS[type(op)](result, _value(part, names))
            return result
        case ast.Compare(left, [op], [right]):
            return _OPERATORS[type(op)](_value(left, names), _value(right, names))
        case ast.Call(ast.Name(name), parts, []):
            return names[name](*_arguments(parts, names))
        case ast.Call(ast.Attribute(owner, "astype"), [kind], []):
            return np.asarray(_value(owner, names)).astype(_value(kind, names))
        case ast.Call(ast.Attribute(owner, name), parts, []) if name in _DRAWS:
            generator = _value(owner, names)
            assert isinstance(generator, np.random.RandomState)
            return getattr(generator, name)(*_arguments(parts, names))
    raise ValueError(f"no formula: {ast.unparse(node)}")


def _arguments(parts: list[ast.expr], names: dict[str, Any]) -> list[Any]:
    values: list[Any] = []
    for part in parts:
        if isinstance(part, ast.Starred):
            values += _value(part.value, names)
        else:
            values.append(_value(part, names))
    return values


def uniform(rule: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return uniform random numbers under a rule: `RandomState(seed).rand(*shape) * 1.6 - 0.3` or `in [-0.3, 1.3]`.

    What a rule says besides the arithmetic around the draw is left to its readers; `rand(...).astype(float32)` goes on
    in float32.

    Raises:
        ValueError: if there is neither a draw nor an interval in it.
    """
    values = np.random.RandomState(seed).rand(*shape)
    interval = re.search(rf"\[\s*({_NUMBER})\s*,\s*({_NUMBER})\s*[\])]", rule)
    if interval:
        low, high = float(interval[1]), float(interval[2])
        return low + (high - low) * values
    draw = re.search(r"(?:RandomState\([^()]*\)\.)?\brand\b(?:\([^()]*\))?(\.astype\([\w.]*float32\))?", rule)
    if draw is None:
        raise ValueError(f"cannot read the rule {rule!r}: it has no draw and no interval")
    before = re.search(r"[-+*/()\d.\s]*$", rule[: draw.start()])
    after = re.search(r"^[-+*/()\d.\s]*", rule[draw.end() :])
    assert before is not None
    assert after is not None
    return evaluate(f"{before[0]}u{after[0].rstrip(' .')}", u=values.astype(np.float32) if draw[1] else values)
