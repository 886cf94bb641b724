"""How torch can use the operator of window matching: registration, meta device, compilation, export; no gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from iiwa.matching.op import match_windows
from tests.iiwa.matching.cases import random_similarity


class Matching(nn.Module):
    """Match windows by learned features, and gather what was matched: a graph around the operator."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.project = nn.Linear(6, 6)

    def forward(self, queries: Tensor, memories: Tensor) -> Tensor:
        keys = self.project(memories)
        assignment = match_windows(queries @ keys.transpose(1, 2))
        return keys.gather(1, assignment[..., None].expand(-1, -1, keys.shape[2]))


def tokens(batch: int) -> tuple[Tensor, Tensor]:
    """Return features of query windows (B, 4, 6) and of memory windows (B, 9, 6)."""
    return random_similarity(batch, 4, 6, seed=batch), random_similarity(batch, 9, 6, seed=batch + 10)


@pytest.mark.parametrize("shape", [(2, 3, 7), (1, 4, 4), (0, 2, 3)])
def test_the_operator_is_registered_as_torch_demands(shape: tuple[int, int, int]) -> None:
    torch.library.opcheck(torch.ops.iiwa.match_windows.default, (random_similarity(*shape), "scipy"))


def test_no_gradient_passes_through_the_assignment() -> None:
    similarity = random_similarity(2, 3, 7).requires_grad_()
    assert not match_windows(similarity).requires_grad


def test_on_the_meta_device_shapes_are_enough() -> None:
    assignment = match_windows(torch.empty(2, 5, 9, device="meta"))
    assert (assignment.shape, assignment.dtype, assignment.device.type) == ((2, 5), torch.int64, "meta")


@pytest.mark.parametrize("compiler", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_network_is_one_graph_and_gives_the_same(compiler: str) -> None:
    model = Matching()
    compiled = torch.compile(model, fullgraph=True, backend=compiler)
    for batch in (2, 3):
        torch.testing.assert_close(compiled(*tokens(batch)), model(*tokens(batch)))
    expected = torch.autograd.grad(model(*tokens(2)).square().sum(), list(model.parameters()))
    gradients = torch.autograd.grad(compiled(*tokens(2)).square().sum(), list(model.parameters()))
    torch.testing.assert_close(gradients, expected)
    torch.compiler.reset()


def test_an_exported_program_matches_any_batch_and_holds_torchs_operations_only() -> None:
    batch = {0: torch.export.Dim("batch", min=1)}
    program = torch.export.export(Matching(), tokens(2), dynamic_shapes=(batch, batch))
    assert not [node for node in program.graph.nodes if "iiwa" in str(node.target)]
    assert [node for node in program.graph.nodes if "while_loop" in str(node.target)]
    for size in (1, 2, 5):
        torch.testing.assert_close(program.module()(*tokens(size)), Matching()(*tokens(size)))
