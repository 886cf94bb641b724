"""A network as a torch.export program, for any height, width and batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic_settings
from torch.utils._sympy.value_ranges import ValueRanges

from segcore.errors import InputError
from segcore.export.form import ExportedNetwork, Form, largest_size
from segcore.segmentor import Segmentor, Size

_EXAMPLE = (100, 139)
"""An image that every network has to pad, so that what depends on the size is in the graph."""
_SIZES = ((128, 160), (97, 150), (45, 68))
_TOLERANCE = 1e-3
"""Of the standard deviation of the values: what other kernels may round away."""
_ASSERTIONS = ("_assert_scalar", "_assert_tensor_metadata", "sym_constrain_range", "sym_constrain_range_for_size")


@contextmanager
def evaluating(model: Segmentor) -> Iterator[None]:
    """Hold a network in evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def program_of(network: ExportedNetwork) -> ExportedProgram:
    """Return the program of a network in evaluation mode; `check_values` tells whether it holds for every size.

    Raises:
        InputError: if torch.export cannot express the network.
    """
    form = network.form
    dims: dict[int, Any] = {0: Dim("batch", min=1)}
    most = largest_size(network.model)
    if form.output == "coarse":
        most = form.padded or most
    size = form.size or tuple(min(side, limit) for side, limit in zip(_EXAMPLE, most or _EXAMPLE, strict=True))
    if form.size is None:
        least, most = min(size) - 1, most or (None, None)  # see `_without_assertions`
        dims |= {2: Dim("height", min=least, max=most[0]), 3: Dim("width", min=least, max=most[1])}
    example = network.example((size[0], size[1]))  # batch 2: 1 would be fixed as a constant
    try:
        with symbolic_settings.patch(backed_size_oblivious=True), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                network, (example,), dynamic_shapes=(dims,), prefer_deferred_runtime_asserts_over_guards=True
            )
    except (torch._dynamo.exc.UserError, torch.fx.experimental.symbolic_shapes.GuardOnDataDependentSymNode) as error:
        raise InputError(f"torch.export cannot express this network for {_meant(form)}") from error
    return _without_assertions(program)


def _meant(form: Form) -> str:
    if form.size:
        return f"images of {form.size[0]}x{form.size[1]} pixels"
    return "images of any size; give --height and --width"


def _without_assertions(program: ExportedProgram) -> ExportedProgram:
    """Take out what torch assumed of sizes from the example alone, such as that an image needs padding.

    The graph does not branch, and `check_values` compares it with the network at sizes that break these assumptions.
    """
    for node in list(program.graph.nodes):
        if node.op == "call_function" and getattr(node.target, "_opname", "") in _ASSERTIONS:
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    program.example_inputs = None  # they would bring the assumptions back when the program is loaded
    for symbol, limits in program.range_constraints.items():
        program.range_constraints[symbol] = ValueRanges(1, limits.upper)
    return program


def check_values(network: ExportedNetwork, run: Callable[[Tensor], list[Tensor]], what: str) -> None:
    """Compare an exported graph with the network at three sizes, or at its own, and at batch 1 and 2.

    Args:
        run: image -> outputs of the graph.
        what: how the sentence calls the graph.

    Raises:
        InputError: if values differ by more than rounding.
    """
    form = network.form
    most = largest_size(network.model) if form.padded is None else form.padded
    for number, size in enumerate((form.size,) * 2 if form.size else _SIZES):
        size = _within(size, most)
        image = network.example(size, batch=1 + number % 2, seed=number)
        with torch.inference_mode():
            expected: Any = network(image)
        parts = expected if isinstance(expected, tuple) else (expected,)
        for name, want, got in zip(form.outputs, parts, run(image), strict=True):
            if not _is_equal(want, got.to(want.device)):
                raise InputError(
                    f"{what} gives other values ({name}) than the network on an image of {size[0]}x{size[1]} pixels, "
                    f"so it is not written; {'export with other versions of torch' if form.size else 'give --height and --width'}"
                )


def _within(size: Size, most: Size | None) -> Size:
    return (min(size[0], most[0]), min(size[1], most[1])) if most else size


def _is_equal(want: Tensor, got: Tensor) -> bool:
    if want.shape != got.shape or want.dtype != got.dtype:
        return False
    if not want.is_floating_point():  # class numbers: a tie may go either way
        return bool((want != got).float().mean() <= 1e-3)
    want, got = want.float(), got.float()
    limit = _TOLERANCE * max(want.std().item(), 1e-6)
    return bool((want - got).abs().max() <= limit)
