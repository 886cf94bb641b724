"""Runs every parity case through the adapter of its paper: all values equal, and none of the case passed over."""

from __future__ import annotations

import pytest

from tests.parity.case_files import ParityCase, find_cases, first_problem


@pytest.mark.parametrize("case", find_cases(), ids=lambda case: f"{case.paper}-{case.name}")
def test_every_value_equals_the_published_implementation(case: ParityCase) -> None:
    assert first_problem(case) is None
