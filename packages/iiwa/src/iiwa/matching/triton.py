"""Window matching on CUDA: one Triton program per image, exact, without a word from the host.

Shortest augmenting paths as SciPy has them (Jonker and Volgenant 1987, rectangular form of Crouse 2016): the query
windows enter one by one; each searches, by Dijkstra over reduced costs, the cheapest chain of exchanges that ends at a
free memory window. A step of the search visits one query window and looks at all memory windows at once, in the
program's lanes. Reduced cost = cost - query dual - memory dual, never negative; cost = -similarity. All in float64:
the total is within 1e-12 * n_q * the largest magnitude of the optimum (rounding only; tested).

The state of the search stays in the lanes. What lanes read from each other passes through memory, with a barrier in
between. NaN and infinity are never near: the searches end all the same, with some one-to-one assignment.
"""

# ruff: noqa: N803 - constants of a kernel are in capitals, as Triton writes them
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_LANES_PER_WARP = 256  # 8 memory windows per thread; chosen by the registers of the compiled code, not yet timed
_MAX_WARPS = 32
_CLOSED = tl.constexpr(2147483647)  # rank of a memory window that this search has settled


def match(similarity: Tensor) -> Tensor:
    """Return the memory window of every query window; see `iiwa.matching.op.match_windows`.

    Shapes:
        (B, n_q, n_k), none of them 0 -> (B, n_q) int64
    """
    similarity = similarity.contiguous()
    batch, num_queries, num_memories = similarity.shape
    assignment = torch.full((batch, num_queries), -1, dtype=torch.int64, device=similarity.device)
    duals = torch.zeros((batch, num_queries), dtype=torch.float64, device=similarity.device)
    owners = torch.full((batch, num_memories), -1, dtype=torch.int32, device=similarity.device)
    parents = torch.zeros_like(owners)
    block, warps = block_size(num_memories)
    with torch.cuda.device_of(similarity):
        _augment_kernel[(batch,)](
            similarity,
            assignment,
            duals,
            owners,
            parents,
            num_queries,
            num_memories,
            BLOCK=block,
            num_warps=warps,  # pyright: ignore[reportCallIssue] - options of the launch, not of the kernel
            enable_fp_fusion=False,  # pyright: ignore[reportCallIssue] - it multiplies nothing; unset, Triton 3.9 warns
        )
    return assignment


def block_size(num_memories: int) -> tuple[int, int]:
    """Return how many lanes hold the memory windows, and the warps that share them."""
    block = triton.next_power_of_2(num_memories)
    return block, min(max(block // _LANES_PER_WARP, 1), _MAX_WARPS)


@triton.jit
def _augment_kernel(
    similarity,  # (B, n_q, n_k) float32
    assignment,  # (B, n_q) int64: memory window of every query window; -1 as long as it has none
    duals,  # (B, n_q) float64 of query windows, zeros
    owners,  # (B, n_k) int32: query window of every memory window, -1
    parents,  # (B, n_k) int32: query window from which the search reached a memory window, zeros
    num_queries,
    num_memories,
    BLOCK: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    similarity += image * num_queries * num_memories
    assignment += image * num_queries
    duals += image * num_queries
    owners += image * num_memories
    parents += image * num_memories
    memories = tl.arange(0, BLOCK)
    exists = memories < num_memories
    memory_duals = tl.zeros((BLOCK,), dtype=tl.float64)  # of a free memory window always 0
    # order among equally near memory windows: free ones first (or ties take long), then low numbers
    rank = tl.where(exists, memories, _CLOSED)
    for current in range(num_queries):
        # 1. search until the nearest memory window is a free one
        distance = tl.full((BLOCK,), float("inf"), dtype=tl.float64)
        lowest = tl.full((), 0.0, dtype=tl.float64)
        start = tl.full((), 0.0, dtype=tl.float64)  # lowest, less the dual of the query window
        query = tl.full((), 0, dtype=tl.int32) + current
        sink = tl.full((), -1, dtype=tl.int32)
        while sink < 0:
            row = similarity + query.to(tl.int64) * num_memories
            gain = tl.load(row + memories, mask=exists, other=0.0).to(tl.float64)
            reached = start - gain - memory_duals
            is_nearer = (rank != _CLOSED) & (reached < distance)
            distance = tl.where(is_nearer, reached, distance)
            tl.store(parents + memories, query, mask=is_nearer)
            lowest = tl.min(tl.where(rank != _CLOSED, distance, float("inf")), axis=0)
            chosen = tl.min(tl.where(distance == lowest, rank, _CLOSED), axis=0)
            rank = tl.where(rank == chosen, _CLOSED, rank)
            sink = tl.where(chosen < BLOCK, chosen, -1)
            query = tl.where(chosen < BLOCK, query, chosen - BLOCK)
            start = lowest - tl.load(duals + query)
        owner = tl.load(owners + memories, mask=exists, other=-1)
        tl.debug_barrier()
        # 2. duals, so that reduced costs stay non-negative, and zero between pairs
        is_settled = exists & (rank == _CLOSED)
        shift = tl.where(is_settled, lowest - distance, 0.0)
        memory_duals -= shift
        is_paired = is_settled & (owner >= 0)
        dual = tl.load(duals + owner, mask=is_paired, other=0.0)
        tl.store(duals + owner, dual + shift, mask=is_paired)
        tl.store(duals + current, lowest)
        # 3. walk back, handing every memory window to the query window that reached it; reads what nobody writes here
        memory = sink
        while memory >= 0:
            query = tl.load(parents + memory)
            tl.store(owners + memory, query)
            memory = tl.load(assignment + query).to(tl.int32)
        tl.debug_barrier()
        owner = tl.load(owners + memories, mask=exists, other=-1)
        rank = tl.where(exists, tl.where(owner < 0, memories, BLOCK + owner), _CLOSED)
        tl.store(assignment + owner, memories.to(tl.int64), mask=owner >= 0)
        tl.store(parents + memories, current + 1, mask=exists)  # so that the walk ends whatever the similarities are
        tl.debug_barrier()
