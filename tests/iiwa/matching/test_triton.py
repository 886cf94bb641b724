"""The Triton kernel matches as SciPy does: on a GPU, else in Triton's interpreter; and it compiles without a GPU."""

from __future__ import annotations

import importlib
import os

import pytest
import torch
from torch import Tensor

from iiwa.matching.op import match_windows
from tests.iiwa.matching.cases import (
    best_assignment,
    check,
    degenerate_similarities,
    random_similarity,
    smooth_similarity,
)
from tests.triton_interpreter import run_interpreted

triton = pytest.importorskip("triton")
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if IS_INTERPRETED else "cuda"
needs_device = pytest.mark.skipif(
    not IS_INTERPRETED and not torch.cuda.is_available(), reason="run by the test that starts the interpreter"
)


def match(similarity: Tensor) -> Tensor:
    """Return the kernel's assignment, on the CPU."""
    return match_windows(similarity.to(DEVICE), backend="triton").cpu()


@needs_device
@pytest.mark.parametrize("shape", [(3, 1, 1), (2, 1, 6), (4, 5, 8), (2, 9, 9), (2, 16, 96), (1, 31, 33), (1, 36, 216)])
def test_pairs_are_those_of_the_solver(shape: tuple[int, int, int]) -> None:
    for similarity in (random_similarity(*shape), smooth_similarity(*shape)):
        assignment = match(similarity)
        check(similarity, assignment)
        assert torch.equal(assignment, best_assignment(similarity))


@needs_device
@pytest.mark.parametrize("seed", range(8))
def test_with_many_optima_the_total_is_the_largest(seed: int) -> None:
    similarity = random_similarity(3, 6, 6 + seed, seed=seed).round()
    check(similarity, match(similarity))


@needs_device
@pytest.mark.parametrize("name", degenerate_similarities())
def test_degenerate_similarities_are_matched_like_any_other(name: str) -> None:
    similarity = degenerate_similarities()[name]
    assignment = match(similarity)
    check(similarity, assignment)
    assert torch.equal(assignment, match(similarity))


@needs_device
def test_equally_near_windows_are_taken_in_their_order() -> None:
    assert match(torch.zeros(1, 5, 9)).tolist() == [[0, 1, 2, 3, 4]]


@needs_device
def test_images_of_a_batch_do_not_depend_on_each_other() -> None:
    similarity = smooth_similarity(4, 6, 15)
    order = torch.tensor([3, 0, 2, 1])
    assert torch.equal(match(similarity[order]), match(similarity)[order])


@needs_device
def test_strides_are_taken() -> None:
    similarity = random_similarity(2, 12, 7).transpose(1, 2)
    assert torch.equal(match(similarity), best_assignment(similarity))


@needs_device
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's NumPy speaks of NaN
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("share", [0.1, 0.6, 1.0])
def test_similarities_that_are_not_finite_still_end_in_distinct_windows(value: float, share: float) -> None:
    similarity = random_similarity(2, 8, 11)
    is_bad = torch.rand(similarity.shape, generator=torch.Generator().manual_seed(1)) < share
    assignment = match(similarity.masked_fill(is_bad, value))
    assert all(len(set(row) & set(range(11))) == 8 for row in assignment.tolist())


@pytest.mark.skipif(IS_INTERPRETED, reason="this is the interpreter")
def test_the_interpreter_passes_the_tests_above() -> None:
    assert "38 passed" in run_interpreted(__file__)


@pytest.mark.slow
@pytest.mark.skipif(IS_INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("num_memories", [1, 384, 600, 1536, 6144])
@pytest.mark.parametrize(("capability", "is_aligned"), [(75, True), (90, True), (90, False)])
def test_the_kernel_compiles_for_a_gpu_that_is_not_here(num_memories: int, capability: int, is_aligned: bool) -> None:
    backends = importlib.import_module("triton.backends.compiler")
    module = importlib.import_module("iiwa.matching.triton")
    kernel = module._augment_kernel
    block, warps = module.block_size(num_memories)
    types = {"similarity": "*fp32", "assignment": "*i64", "duals": "*fp64", "owners": "*i32", "parents": "*i32"}
    types |= {"num_queries": "i32", "num_memories": "i32", "BLOCK": "i32"}
    assert list(types) == kernel.arg_names
    constants = {"BLOCK": block}
    if num_memories == 1:  # the launch makes constants of arguments that are 1
        constants |= {"num_queries": 1, "num_memories": 1}
    types |= dict.fromkeys(constants, "constexpr")
    aligned = [place for place, name in enumerate(types) if name not in constants]  # as torch's memory is
    source = triton.compiler.ASTSource(
        fn=kernel,
        signature=types,
        constexprs={(kernel.arg_names.index(name),): number for name, number in constants.items()},
        attrs={(place,): [["tt.divisibility", 16]] for place in aligned if is_aligned},
    )
    target = backends.GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": warps, "enable_fp_fusion": False})
    assert len(compiled.asm["cubin"]) > 1000
    # barriers order what lanes read from each other, unless a load may come from the cache of constants
    assert ".nc" not in compiled.asm["ptx"]


@pytest.mark.gpu
@needs_device
@pytest.mark.parametrize("shape", [(4, 100, 600), (4, 256, 1536), (2, 1024, 6144)])
def test_large_maps_are_matched_on_the_device(shape: tuple[int, int, int]) -> None:
    similarity = smooth_similarity(*shape)
    check(similarity, match(similarity))


@pytest.mark.gpu
@needs_device
def test_the_host_never_waits_for_the_device() -> None:
    similarity = random_similarity(2, 16, 96).to("cuda")
    match_windows(similarity)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        match_windows(similarity)
    finally:
        torch.cuda.set_sync_debug_mode("default")
