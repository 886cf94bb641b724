"""A network as a torch.export program, for any height, width and batch."""

from __future__ import annotations

import importlib
import math
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import UserError
from torch.export import Dim, ExportedProgram
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils._sympy.value_ranges import ValueRanges

from segcore.errors import InputError
from segcore.export.form import ExportedNetwork, Form, largest_size
from segcore.segmentor import Segmentor, Size

_settings: Any = importlib.import_module("torch.fx.experimental._config")
_EXAMPLE = (100, 139)
"""An image that every network has to pad; 128 x 160 where it does."""
_SIZES = ((192, 96), (97, 210), (45, 68))
_IMAGES = 3
"""Images of a size, of which one has to agree."""
_TOLERANCE = 5e-4
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


class Part(nn.Module):
    """A function of a network as a module, to export it alone."""

    def __init__(self, network: ExportedNetwork, function: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self.function = network, function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def example_of(network: ExportedNetwork) -> Tensor:
    """Return an image to trace with; batch 2, because 1 would be fixed as a constant."""
    most = largest_image(network)
    return network.example(network.form.size or _within(_EXAMPLE, most))


def largest_image(network: ExportedNetwork) -> Size | None:
    """Return the largest image that the graph takes, None where it takes any."""
    return network.form.padded or largest_size(network.model)


def program_of(part: Part, inputs: tuple[Tensor, ...], axes: Sequence[dict[int, str]]) -> ExportedProgram:
    """Return the program of a part in evaluation mode; `check_values` tells whether it holds for every size.

    Args:
        inputs: examples.
        axes: names of the axes of each input that may have another length.

    Raises:
        InputError: if torch.export cannot express it.
    """
    names = {name for named in axes for name in named.values()}
    # from two on: a length of 1 is a special case to torch, and taken out again below
    lengths = {name: Dim(name, min=1 if name == "batch" else 2) for name in names}
    dims = tuple({axis: lengths[name] for axis, name in named.items()} for named in axes)
    try:
        with _settings.patch(backed_size_oblivious=True), _without_solving(), _quiet_no_grad():
            program = torch.export.export(
                part, inputs, dynamic_shapes=(dims,), prefer_deferred_runtime_asserts_over_guards=True
            )
    except (UserError, GuardOnDataDependentSymNode) as error:
        raise InputError(f"torch.export cannot express this network for {_meant(part.network.form)}") from error
    return _without_assertions(program)


def _meant(form: Form) -> str:
    if form.size:
        return f"images of {form.size[0]}x{form.size[1]} pixels"
    return "images of any size; give --height and --width"


@contextmanager
def _quiet_no_grad() -> Iterator[None]:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _without_solving() -> Iterator[None]:
    """Keep torch.export from solving for the sizes that satisfy all that it assumed.

    Its solver knows few forms: the padded size of a backbone stops it with an error of its own, after minutes. What was
    assumed is not asked for anyway, see `_without_assertions`; an example is all that the network is traced with.
    """
    tracing: Any = importlib.import_module("torch.export._trace")
    solve = tracing.produce_guards_and_solve_constraints

    def freeze(fake_mode: Any, *_: Any, **__: Any) -> None:
        fake_mode.shape_env.frozen = True

    tracing.produce_guards_and_solve_constraints = freeze
    try:
        yield
    finally:
        tracing.produce_guards_and_solve_constraints = solve


def _without_assertions(program: ExportedProgram) -> ExportedProgram:
    """Take out what torch assumed of sizes from the example alone, such as that an image needs padding.

    The graph does not branch, and `check_values` compares it with the network at sizes that break these assumptions.
    """
    for node in list(program.graph.nodes):
        if node.op == "call_function" and getattr(node.target, "_opname", "") in _ASSERTIONS:
            program.graph.erase_node(node)
        elif node.target is math.ceil:
            _round_up_in_integers(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    program.example_inputs = None  # they would bring the assumptions back when the program is loaded
    for symbol, limits in program.range_constraints.items():
        program.range_constraints[symbol] = ValueRanges(1, limits.upper)
    return program


def _round_up_in_integers(node: Node) -> None:
    """Replace ceil(a / b), which timm computes sizes with and torch cannot save, by -(-a // b)."""
    quotient = node.args[0]
    assert isinstance(quotient, Node)
    with node.graph.inserting_before(node):
        negative = _add(operator.neg, quotient.args[0])
        rounded = _add(operator.neg, _add(operator.floordiv, negative, quotient.args[1]))
    node.replace_all_uses_with(rounded)


def _add(function: Callable[..., Any], *inputs: Any) -> Node:
    """Add a function of sizes to the graph of its first input, where the graph inserts."""
    node = inputs[0].graph.call_function(function, inputs)
    node.meta["val"] = function(*(part.meta["val"] if isinstance(part, Node) else part for part in inputs))
    return node


def check_values(
    network: ExportedNetwork, run: Callable[[Tensor], list[Tensor]], what: str, *, is_padded: bool = False
) -> None:
    """Compare an exported graph with the network at three sizes, or at its own, and at batch 1 and 2.

    Args:
        run: image -> outputs of the graph.
        what: how the sentence calls the graph.
        is_padded: the graph takes images of legal sizes only.

    Raises:
        InputError: if values differ by more than rounding on every image of a size. On one they may: where IIWA can
            assign windows in two ways that are equally good but for rounding, either is right.
    """
    form = network.form
    most = largest_image(network)
    for number, size in enumerate((form.size,) * 2 if form.size else _SIZES):
        size = _within(size, most)
        size = network.padded(*size) if is_padded else size
        images = (network.example(size, batch=1 + number % 2, seed=number + 10 * attempt) for attempt in range(_IMAGES))
        differing = list(takewhile(bool, (_differing(network, run, image) for image in images)))
        if len(differing) == _IMAGES:
            advice = "another version of torch may help" if form.size else "give --height and --width"
            raise InputError(
                f"{what} gives other values ({differing[0]}) than the network on images of {size[0]}x{size[1]} "
                f"pixels, so it is not written; {advice}"
            )


def _differing(network: ExportedNetwork, run: Callable[[Tensor], list[Tensor]], image: Tensor) -> str:
    """Return the first output of the graph that is not the network's, or nothing."""
    with torch.inference_mode():
        expected = network(image)
    pairs = zip(network.form.outputs, expected, run(image), strict=True)
    return next((name for name, want, got in pairs if not _is_equal(want, got.to(want.device))), "")


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
