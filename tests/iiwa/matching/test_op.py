"""Window matching is the exact one-to-one assignment, whatever the similarities, and refuses what it cannot solve."""

from __future__ import annotations

import itertools
import logging
import os
import signal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iiwa.matching import op
from iiwa.matching.op import choose_backend, match_windows
from segcore.errors import InputError
from tests.iiwa.matching.cases import (
    best_assignment,
    check,
    degenerate_similarities,
    random_similarity,
    smooth_similarity,
    total,
)


def brute_force(similarity: Tensor) -> float:
    """Return the largest total of one image (n_q, n_k) over all choices of distinct columns."""
    rows = similarity.double().numpy()
    choices = itertools.permutations(range(rows.shape[1]), rows.shape[0])
    return max(float(rows[np.arange(len(rows)), list(choice)].sum()) for choice in choices)


@pytest.mark.parametrize("shape", [(3, 1, 1), (2, 1, 6), (2, 3, 3), (2, 4, 6), (2, 5, 5)])
def test_no_other_assignment_is_better(shape: tuple[int, int, int]) -> None:
    for similarity in (random_similarity(*shape), random_similarity(*shape, seed=1).round()):
        found = total(similarity, match_windows(similarity))
        np.testing.assert_allclose(found, [brute_force(image) for image in similarity], rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 64, 384), (1, 100, 600), (2, 60, 60)])
def test_pairs_are_those_of_the_solver_image_by_image(shape: tuple[int, int, int]) -> None:
    for similarity in (random_similarity(*shape), smooth_similarity(*shape)):
        assert torch.equal(match_windows(similarity), best_assignment(similarity))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(0, 9),
    st.integers(0, 2**16),
    st.sampled_from([0, 1, 50]),
    st.sampled_from([1e-20, 1.0, 1e8]),
)
def test_every_assignment_is_one_to_one_and_optimal(
    batch: int, num_queries: int, extra: int, seed: int, levels: int, scale: float
) -> None:
    similarity = random_similarity(batch, num_queries, num_queries + extra, seed=seed)
    if levels:
        similarity = (similarity * levels).round()  # integers: many optima
    check(similarity * scale, match_windows(similarity * scale))


@pytest.mark.parametrize("name", degenerate_similarities())
def test_degenerate_similarities_are_matched_like_any_other(name: str) -> None:
    similarity = degenerate_similarities()[name]
    assignment = match_windows(similarity)
    check(similarity, assignment)
    assert torch.equal(assignment, match_windows(similarity.clone()))


def test_images_of_a_batch_do_not_depend_on_each_other() -> None:
    similarity = smooth_similarity(5, 12, 30)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.equal(match_windows(similarity[order]), match_windows(similarity)[order])
    assert torch.equal(match_windows(similarity[2:3]), match_windows(similarity)[2:3])


def test_renumbered_memory_windows_are_matched_as_before() -> None:
    similarity = random_similarity(2, 9, 20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(2))
    assert torch.equal(order[match_windows(similarity[:, :, order])], match_windows(similarity))


def test_strides_and_half_precision_are_taken() -> None:
    similarity = random_similarity(2, 20, 9).transpose(1, 2)
    assert torch.equal(match_windows(similarity), match_windows(similarity.contiguous()))
    half = similarity.bfloat16()
    assert torch.equal(match_windows(half), match_windows(half.float()))


@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5), (2, 0, 0)])
def test_nothing_to_match_gives_nothing(shape: tuple[int, int, int]) -> None:
    assert match_windows(torch.zeros(shape)).shape == shape[:2]


def test_more_query_than_memory_windows_are_refused() -> None:
    with pytest.raises(InputError, match="5 query windows cannot be matched with 4 memory windows"):
        match_windows(torch.zeros(1, 5, 4))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_similarities_that_are_not_finite_are_refused(value: float) -> None:
    similarity = random_similarity(2, 3, 5)
    similarity[1, 2, 4] = value
    with pytest.raises(InputError, match="the weights have diverged"):
        match_windows(similarity)


def test_another_number_of_dimensions_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match=r"expected similarities \(B, n_q, n_k\), got \(3, 5\)"):
        match_windows(torch.zeros(3, 5))


def test_each_kind_of_device_has_its_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op, "_HAS_TRITON", True)
    monkeypatch.setattr(op, "_IS_INTERPRETED", False)
    assert [choose_backend(device) for device in ("cpu", "cuda", "mps")] == ["scipy", "triton", "scipy"]
    assert choose_backend("cuda", "scipy") == "scipy"
    assert choose_backend("cuda", "triton") == "triton"
    with pytest.raises(InputError, match="needs similarities on cuda, got cpu"):
        choose_backend("cpu", "triton")
    monkeypatch.setattr(op, "_HAS_TRITON", False)
    assert choose_backend("cuda") == "scipy"
    with pytest.raises(InputError, match="lacks the package triton"):
        choose_backend("cuda", "triton")


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(InputError, match="must be auto, scipy, triton or torch, not 'greedy'"):
        match_windows(torch.zeros(1, 2, 3), backend="greedy")  # pyright: ignore[reportArgumentType]


def test_the_form_is_announced_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(op, "_announced", set())
    with caplog.at_level(logging.DEBUG, logger="iiwa.matching.op"):
        for _ in range(2):
            match_windows(torch.zeros(1, 2, 3))
    assert caplog.messages == ["window matching: scipy form on cpu"]


def test_matching_away_from_the_gpu_is_mentioned_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(op, "_announced", set())
    for device in ("mps", "mps", "cpu"):
        op._announce("scipy", device)
    assert caplog.messages == ["window matching: scipy form on mps"]


def test_a_forked_process_matches_with_threads_of_its_own() -> None:
    """Issue 18: it waited for ever for those of its parent."""
    similarity = random_similarity(3, 4, 9)
    expected = match_windows(similarity)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if torch.equal(match_windows(similarity), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
