"""Formulas in the words of cases are read, not run."""

from __future__ import annotations

import numpy as np
import pytest

from tests.parity.formulas import evaluate, uniform


@pytest.mark.parametrize(
    ("text", "value"),
    [("2 + 3 * -x // 2", 2 + 3 * -5 // 2), ("(1.5, x)", (1.5, 5)), ("double(x) - 1", 9), ("x % 3 == 2", True)],
)
def test_arithmetic_with_given_names(text: str, value: object) -> None:
    assert evaluate(text, x=5, double=lambda x: 2 * x) == value


def test_conditions_on_arrays() -> None:
    label = np.arange(6)
    found = evaluate("label < 2 or label >= num_classes // 2 and label != 4", label=label, num_classes=6)
    assert found.tolist() == [True, True, False, True, False, True]


def test_draws_are_those_of_numpy() -> None:
    drawn = evaluate("RandomState(3).randint(1, 9, shape) + RandomState(seed).randn(*shape)", shape=(2, 4), seed=5)
    expected = np.random.RandomState(3).randint(1, 9, (2, 4)) + np.random.RandomState(5).randn(2, 4)
    np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')", "x.__class__", "open('file')", "[i for i in x]", "x if x else 2",
        "y + 1", "2 +", "().__class__", "x.tofile('file')", "(lambda: 1)()",
    ],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="formula"):
        evaluate(text, x=np.ones(3))


@pytest.mark.parametrize(
    "rule",
    [
        "RandomState(seed).rand(*shape) * 1.6 - 0.3",
        "(RandomState(12).rand(B,Q,M,L,P,2)*1.6-0.3) as float32",
        "-0.3 + 1.6 * rand, float32",
        "uniform in [-0.3, 1.3)",
    ],
)
def test_uniform_numbers_under_a_rule(rule: str) -> None:
    expected = np.random.RandomState(12).rand(3, 2) * 1.6 - 0.3
    np.testing.assert_allclose(uniform(rule, (3, 2), 12), expected, rtol=1e-12)


def test_a_rule_without_a_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="scattered around the center"):
        uniform("scattered around the center", (2,), 0)
