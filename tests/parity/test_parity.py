"""Runs every parity case through the adapter of its paper and reports the first value that differs."""

from __future__ import annotations

import importlib
import importlib.util

import pytest

from tests.parity.case_files import ParityCase, find_cases


@pytest.mark.parametrize("case", find_cases(), ids=lambda case: f"{case.paper}-{case.name}")
def test_every_value_equals_the_published_implementation(case: ParityCase) -> None:
    adapter_name = f"tests.parity.{case.paper}.adapter"
    if importlib.util.find_spec(f"tests.parity.{case.paper}") is None:
        pytest.skip(f"no package of this repository implements {case.paper}")
    adapter = importlib.import_module(adapter_name)
    compared = 0
    for comparison in adapter.compare(case):
        compared += 1
        difference = comparison.difference()
        assert difference is None, f"{case.path.name}: {comparison.name} is the first to differ: {difference}"
    assert compared > 0, f"{case.path.name}: the adapter compared nothing"
