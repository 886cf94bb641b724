"""How torch can use the operator of deformable attention: registration, autocast, compilation, export."""

from __future__ import annotations

import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from segcore.layers.deform_attn.op import Backend, deform_attn
from segcore.layers.deform_attn.points import reference_grid, sampling_locations
from tests.layers.deform_attn.cases import Sizes, random_inputs


@pytest.mark.parametrize("sizes", [((3, 5), (4, 2), (1, 1)), ((2, 3),)])
def test_the_operator_is_registered_as_torch_demands(sizes: Sizes) -> None:
    inputs = random_inputs(sizes)
    leaves = [tensor.requires_grad_() for tensor in (inputs.value, inputs.locations, inputs.weights)]
    heights, widths = [h for h, _ in sizes], [w for _, w in sizes]
    torch.library.opcheck(torch.ops.segcore.deform_attn.default, (*leaves, heights, widths, "cpu"))
    constants = [tensor.detach() for tensor in leaves]
    arguments = (inputs.grad, *constants, heights, widths, "cpu")
    torch.library.opcheck(torch.ops.segcore.deform_attn_backward.default, arguments)


class Attention(nn.Module):
    """Attention of a map of 4x3 tokens over maps of 4x3 and 2x2, as the papers build it."""

    sizes = ((4, 3), (2, 2))

    def __init__(self, backend: Backend = "auto") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backend: Backend = backend
        self.value, self.offsets, self.scores = nn.Linear(12, 12), nn.Linear(12, 2 * 2 * 3 * 2), nn.Linear(12, 12)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        value = self.value(tokens).unflatten(-1, (2, 6))
        offsets = self.offsets(query).unflatten(-1, (2, 2, 3, 2))
        weights = self.scores(query).unflatten(-1, (2, 6)).softmax(-1).unflatten(-1, (2, 3))
        reference = reference_grid(self.sizes[:1], device=query.device)
        locations = sampling_locations(reference, offsets, self.sizes)
        return deform_attn(value, self.sizes, locations, weights, backend=self.backend)


def tokens(batch: int) -> tuple[Tensor, Tensor]:
    """Return queries and tokens for `Attention`."""
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, 12, 12, generator=generator), torch.randn(batch, 16, 12, generator=generator)


def test_autocast_gives_nearly_the_same_in_half_precision() -> None:
    model = Attention()
    exact = model(*tokens(2))
    with torch.autocast("cpu", torch.bfloat16):
        result = model(*tokens(2))
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), exact, rtol=0.05, atol=0.05)
    result.float().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize(
    ("compiler", "backend"),
    [
        ("aot_eager", "auto"),
        ("aot_eager", "reference"),
        pytest.param("inductor", "auto", marks=pytest.mark.slow),
    ],
)
def test_a_compiled_network_is_one_graph_and_gives_the_same(compiler: str, backend: Backend) -> None:
    model = Attention(backend)
    compiled = torch.compile(model, fullgraph=True, backend=compiler)
    for batch in (2, 3):
        torch.testing.assert_close(compiled(*tokens(batch)), model(*tokens(batch)))
    expected = torch.autograd.grad(model(*tokens(2)).square().sum(), list(model.parameters()))
    gradients = torch.autograd.grad(compiled(*tokens(2)).square().sum(), list(model.parameters()))
    torch.testing.assert_close(gradients, expected)
    torch.compiler.reset()


def exported(backend: Backend) -> torch.export.ExportedProgram:
    """Return the exported attention, for any batch size."""
    batch = {0: torch.export.Dim("batch", min=1)}
    return torch.export.export(Attention(backend), tokens(2), dynamic_shapes=(batch, batch))


@pytest.mark.parametrize(("backend", "is_ours"), [("auto", False), ("cpu", True)])
def test_an_exported_program_holds_our_operator_only_where_it_is_forced(backend: Backend, is_ours: bool) -> None:
    program = exported(backend)
    assert any("segcore" in str(node.target) for node in program.graph.nodes) == is_ours
    for size in (1, 2, 5):
        torch.testing.assert_close(program.module()(*tokens(size)), Attention()(*tokens(size)))


def test_an_onnx_file_equals_the_network() -> None:
    program = torch.onnx.export(exported("auto"), dynamo=True, input_names=["query", "tokens"], verbose=False)
    assert program is not None
    query, maps = tokens(3)
    feeds = {"query": query.numpy(), "tokens": maps.numpy()}
    (result,) = ReferenceEvaluator(program.model_proto).run(None, feeds)
    torch.testing.assert_close(torch.from_numpy(result), Attention()(query, maps).detach(), rtol=1e-4, atol=1e-5)
