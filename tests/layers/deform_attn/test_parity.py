"""The bare operator gives what the reference implementations of ECFD and UN-EPT computed, and their gradients."""

from __future__ import annotations

import pytest
import torch

from segcore.layers.deform_attn.op import Backend
from tests.layers.deform_attn.cases import CASES, compare

# In float64 only the rounding of the stored values remains; UN-EPT's case was computed in float32.
EXACT = [name for name in CASES if not name.startswith("unept")]


def test_the_cases_cover_both_papers() -> None:
    assert sorted({case.paper for case in CASES.values()}) == ["ecfd", "unept"]
    assert len(CASES) == 9


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_the_published_ones(name: str, backend: Backend) -> None:
    assert list(compare(CASES[name], torch.float32, backend, "cpu", 3e-5)) == []


@pytest.mark.parametrize("name", EXACT)
def test_in_float64_they_agree_to_the_last_stored_digit(name: str) -> None:
    assert list(compare(CASES[name], torch.float64, "cpu", "cpu", 1e-8)) == []
