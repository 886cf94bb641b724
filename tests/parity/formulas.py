"""Formulas that cases hold as text, such as `RandomState(seed).rand(*shape) * 1.6 - 0.3` or `label >= classes // 2`.

The text is parsed, never executed: numbers, arithmetic, comparisons, the names that are passed in, calls of those that
are functions, and numpy's random draws.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.USub: operator.neg, ast.UAdd: operator.pos,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.And: np.logical_and, ast.Or: np.logical_or,
}  # fmt: skip
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
