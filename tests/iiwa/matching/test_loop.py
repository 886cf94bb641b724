"""The form of window matching that exported programs hold finds the operator's pairs, in torch and in ONNX."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from iiwa.matching.op import match_windows
from segcore.export.onnx_file import open_session
from tests.iiwa.matching.cases import (
    best_assignment,
    check,
    degenerate_similarities,
    random_similarity,
    smooth_similarity,
)


@pytest.mark.parametrize("shape", [(3, 1, 1), (2, 1, 6), (4, 5, 8), (2, 9, 9), (2, 16, 96), (3, 64, 384), (1, 60, 60)])
def test_pairs_are_those_of_the_solver(shape: tuple[int, int, int]) -> None:
    for similarity in (random_similarity(*shape), smooth_similarity(*shape)):
        assert torch.equal(match_windows(similarity, "torch"), best_assignment(similarity))


@pytest.mark.parametrize("name", degenerate_similarities())
def test_degenerate_similarities_are_matched_like_any_other(name: str) -> None:
    similarity = degenerate_similarities()[name]
    check(similarity, match_windows(similarity, "torch"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_similarities_that_are_not_finite_still_end_in_distinct_windows(value: float) -> None:
    similarity = random_similarity(2, 6, 9)
    similarity[:, ::2, 1::3] = value
    assert all(len(set(row.tolist())) == 6 for row in match_windows(similarity, "torch"))


@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5), (2, 0, 0)])
def test_nothing_to_match_gives_nothing(shape: tuple[int, int, int]) -> None:
    assert match_windows(torch.zeros(shape), "torch").shape == shape[:2]


class _Matching(nn.Module):
    def forward(self, similarity: Tensor) -> Tensor:
        return match_windows(similarity)


def test_onnxruntime_finds_the_pairs_of_the_solver_at_any_size(tmp_path: Path) -> None:
    axes = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("q", min=2), 2: torch.export.Dim("k", min=2)}
    program = torch.export.export(
        _Matching(),
        (random_similarity(2, 5, 11),),
        dynamic_shapes=(axes,),
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    converted = torch.onnx.export(program, dynamo=True, input_names=["similarity"], verbose=False)
    assert converted is not None
    session = open_session(converted.model_proto.SerializeToString())
    for shape in ((2, 5, 11), (1, 7, 7), (3, 64, 384)):
        for similarity in (random_similarity(*shape), smooth_similarity(*shape)):
            (pairs,) = session.run(None, {"similarity": similarity.numpy()})
            assert torch.equal(torch.from_numpy(pairs), best_assignment(similarity))
