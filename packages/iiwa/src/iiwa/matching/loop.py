"""Window matching in operations that torch and ONNX have: what exported programs hold, and a form for any device.

Shortest augmenting paths, as the Triton kernel has them, one step of the search or of the way back at a time, for all
images of the batch at once: an image that is done stands still. The steps are the body of one loop, which ends when the
last image is done; their number depends on the similarities. All in float64, exact like the other forms.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_LATER = 2**40  # added to the rank of what is chosen last


class _State(NamedTuple):
    """Where every image stands.

    Shapes:
        (B,): current int64, the query window that enters; row int64, the one that is visited; column int64, where the
        way back stands; is_returning bool; lowest float64, the distance reached
        (B, n_k): distance float64; parent int64, the query window from which a memory window was reached; is_settled
        bool; owner int64, -1 where it is free; memory_duals float64
        (B, n_q): assignment int64, -1 where there is none; query_duals float64
    """

    current: Tensor
    row: Tensor
    column: Tensor
    is_returning: Tensor
    lowest: Tensor
    distance: Tensor
    parent: Tensor
    is_settled: Tensor
    owner: Tensor
    memory_duals: Tensor
    assignment: Tensor
    query_duals: Tensor


def match(similarity: Tensor) -> Tensor:
    """Return the memory window of every query window; see `iiwa.matching.op.match_windows`.

    NaN and infinity count as 0, so that the loop ends.

    Shapes:
        (B, n_q, n_k) -> (B, n_q) int64
    """
    cost = -torch.where(torch.isfinite(similarity), similarity, 0.0).double()
    if not torch.compiler.is_exporting() and cost.numel() == 0:
        return cost.new_empty(cost.shape[:2], dtype=torch.int64)
    state = _start(cost)
    if torch.compiler.is_exporting():
        result = torch.while_loop(_is_unfinished, _step, (*state, cost))
        return result[_State._fields.index("assignment")]
    while bool(_is_unfinished(*state, cost)):
        *parts, _ = _step(*state, cost)
        state = _State(*parts)
    return state.assignment


def _start(cost: Tensor) -> _State:
    queries, memories = torch.zeros_like(cost[:, :, 0]), torch.zeros_like(cost[:, 0])
    images = torch.zeros_like(cost[:, 0, 0])
    return _State(
        current=images.long(),
        row=images.long(),
        column=images.long(),
        is_returning=images > 0,
        lowest=images,
        distance=memories + torch.inf,
        parent=memories.long(),
        is_settled=memories > 0,
        owner=memories.long() - 1,
        memory_duals=memories * 1.0,
        assignment=queries.long() - 1,
        query_duals=queries,
    )


def _is_unfinished(*parts: Tensor) -> Tensor:
    return _is_active(parts[0], parts[-1]).any()


def _is_active(current: Tensor, cost: Tensor) -> Tensor:
    return current <= _numbers(cost, 1)[-1]


def _numbers(cost: Tensor, axis: int) -> Tensor:
    """Return 0, 1, 2, ... along an axis: tensors, because ONNX knows no arithmetic of tensors with sizes in a loop."""
    return torch.arange(cost.shape[axis], device=cost.device)


def _step(*parts: Tensor) -> tuple[Tensor, ...]:
    """Search on, or go one step back; returns the new state, and the cost as it is: a loop gives what it takes."""
    *rest, cost = parts
    state = _State(*rest)
    is_active = _is_active(state.current, cost)
    searched, is_found = _search(state, cost, is_active & ~state.is_returning)
    returned = _return(searched, cost, is_active & state.is_returning)
    return (*returned._replace(is_returning=returned.is_returning | is_found), cost * 1.0)


def _search(state: _State, cost: Tensor, is_searching: Tensor) -> tuple[_State, Tensor]:
    """Visit one query window and settle the nearest memory window; returns where that one is free."""
    memories = _numbers(cost, 2)
    row = state.row[:, None]
    own = cost[_numbers(cost, 0), state.row]  # (B, n_k)
    reached = state.lowest[:, None] + own - state.query_duals.gather(1, row) - state.memory_duals
    is_nearer = is_searching[:, None] & ~state.is_settled & (reached < state.distance)
    distance = torch.where(is_nearer, reached, state.distance)
    parent = torch.where(is_nearer, row, state.parent)
    open_distance = torch.where(state.is_settled, torch.inf, distance)
    lowest = open_distance.amin(dim=1)
    # among equally near memory windows free ones first, or ties take long
    rank = memories + _LATER * (state.owner >= 0)
    chosen = torch.where(open_distance == lowest[:, None], rank, 2 * _LATER).argmin(dim=1)
    is_settled = state.is_settled | (is_searching[:, None] & (memories == chosen[:, None]))
    owner = state.owner.gather(1, chosen[:, None]).squeeze(1)
    is_found = is_searching & (owner < 0)
    lowest = torch.where(is_searching, lowest, state.lowest)
    searched = state._replace(
        row=torch.where(is_searching & ~is_found, owner, state.row),
        column=torch.where(is_found, chosen, state.column),
        lowest=lowest,
        distance=distance,
        parent=parent,
        is_settled=is_settled,
    )
    return _with_duals(searched, is_found), is_found


def _with_duals(state: _State, is_found: Tensor) -> _State:
    """Shift the duals of an ended search, so that reduced costs stay non-negative, and zero between pairs."""
    lowest = state.lowest[:, None]
    shift = torch.where(is_found[:, None] & state.is_settled, lowest - state.distance, 0.0)  # (B, n_k)
    of_pair = shift.gather(1, state.assignment.clamp(min=0))  # (B, n_q)
    is_current = is_found[:, None] & (_numbers(state.assignment, 1) == state.current[:, None])
    added = torch.where(state.assignment >= 0, of_pair, torch.where(is_current, lowest, 0.0))
    return state._replace(memory_duals=state.memory_duals - shift, query_duals=state.query_duals + added)


def _return(state: _State, cost: Tensor, is_returning: Tensor) -> _State:
    """Hand one memory window to the query window that reached it; at the current one the next query window enters."""
    queries, memories = _numbers(cost, 1), _numbers(cost, 2)
    column = state.column[:, None]
    query = state.parent.gather(1, column)  # (B, 1)
    before = state.assignment.gather(1, query).squeeze(1)
    is_done = is_returning & (query.squeeze(1) == state.current)
    current = state.current + is_done
    return state._replace(
        current=current,
        row=torch.where(is_done, torch.minimum(current, queries[-1]), state.row),
        column=torch.where(is_returning & ~is_done, before, state.column),
        is_returning=state.is_returning & ~is_done,
        lowest=torch.where(is_done, 0.0, state.lowest),
        distance=torch.where(is_done[:, None], torch.inf, state.distance),
        is_settled=state.is_settled & ~is_done[:, None],
        assignment=torch.where(is_returning[:, None] & (queries == query), column, state.assignment),
        owner=torch.where(is_returning[:, None] & (memories == column), query, state.owner),
    )
