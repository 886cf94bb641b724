"""A network as ONNX, with all that is needed to use it in the file's metadata."""

from __future__ import annotations

import importlib.util
import json
import logging
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from segcore import __version__
from segcore.errors import InputError
from segcore.export.form import ExportedNetwork
from segcore.export.program import Part, example_of, largest_image, program_of
from segcore.images.transforms import MEAN, STD
from segcore.weights.header import CheckpointMeta

_NEEDED = ("onnx", "onnxscript", "onnxruntime")


def check_installed() -> None:
    """Refuse to work without the packages of the extra.

    Raises:
        InputError: naming what is missing.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        names = " and ".join(missing)
        raise InputError(f"ONNX export needs {names}; install the extra: pip install 'segcore[onnx]'")


def onnx_bytes(network: ExportedNetwork, metadata: Mapping[str, str]) -> bytes:
    """Return the content of an ONNX file.

    Raises:
        InputError: if torch cannot translate the network.
    """
    from onnx import compose, helper

    is_fixed = network.form.size is not None
    whole = {0: "batch"} if is_fixed else {0: "batch", 2: "height", 3: "width"}
    head = {0: "batch"} if is_fixed else {0: "batch", 2: "rows", 3: "columns"}
    image = example_of(network)
    with torch.no_grad():
        padded = network.before(image)
        coarse = network.model(padded)
    before = _translated(Part(network, network.before), {"image": image}, [whole], ["padded"])
    inner = _translated(Part(network, network.model), {"padded": padded}, [whole], ["coarse"])
    if network.form.output == "coarse":  # an output already: what comes after is the size alone
        after = _translated(Part(network, network.padded_size), {"image": image}, [whole], ["padded_size"])
        joined: list[tuple[str, str]] = []
    else:
        inputs = {"coarse": coarse, "image": image}
        after = _translated(Part(network, network.after), inputs, [head, whole], network.form.outputs)
        joined = [("coarse", "after/coarse")]
    # the network's own names stay: onnx loses those that the body of a loop takes from outside
    before, after = compose.add_prefix(before, "before/"), compose.add_prefix(after, "after/")
    model = compose.merge_models(before, inner, io_map=[("before/padded", "padded")])
    model = compose.merge_models(model, after, io_map=joined)
    new_names = {"before/image": "image", "after/image": "image"}
    _rename(model.graph, new_names | {f"after/{name}": name for name in network.form.outputs})
    versions = {opset.domain: opset.version for opset in model.opset_import}  # merged: named more than once
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(*pair) for pair in versions.items())
    helper.set_model_props(model, dict(metadata))
    return model.SerializeToString()


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """Rename values of a graph, and where its own nodes use them; inputs that become one are one."""
    for node in graph.node:
        for words in (node.input, node.output):
            words[:] = [names.get(word, word) for word in words]
    for values in (graph.input, graph.output, graph.initializer):
        for value in values:
            value.name = names.get(value.name, value.name)
    first = {value.name: value for value in reversed(graph.input)}
    kept = list(reversed(first.values()))
    del graph.input[:]
    graph.input.extend(kept)


def _translated(part: Part, inputs: dict[str, Tensor], axes: Sequence[dict[int, str]], outputs: list[str]) -> Any:
    """Return the ONNX model of a part."""
    program = program_of(part, tuple(inputs.values()), axes)
    try:
        with _quiet():
            converted = torch.onnx.export(
                program,
                dynamo=True,
                input_names=list(inputs),
                output_names=outputs,
                custom_translation_table={operator.floordiv: _floor_divide()},
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise InputError(f"torch {torch.__version__} cannot write this network as ONNX: {reason}") from error
    assert converted is not None
    return converted.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the translation's remarks on its own operators from the user's terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _floor_divide() -> Callable[..., Any]:
    """Return the floor of a quotient of sizes; torch's own translation truncates, wrong in -(-height // 32)."""
    import onnxscript

    op: Any = onnxscript.opset18

    def floor_divide(a: Any, b: Any) -> Any:
        return op.Div(op.Sub(a, op.Mod(a, b)), b)

    return floor_divide


def metadata_of(network: ExportedNetwork, meta: CheckpointMeta | None) -> dict[str, str]:
    """Return what an ONNX file says of itself: values are text, or JSON.

    Args:
        meta: paper, recipe and classes; None for a network that was put together by hand.
    """
    form = network.form
    rules = {
        "layout": "batch, channel, height, width",
        "channels": "RGB",
        "values": "0 to 255, uint8" if form.normalize else "(value - mean) / std, value 0 to 255",
        "mean": MEAN,
        "std": STD,
        "size": form.size or "any",
        "largest": largest_image(network),
        "padding": "inside, at right and bottom with the mean color, to what the network needs",
    }
    said = {"segcore": __version__, "input": json.dumps(rules), "output": form.output}
    if meta is None:
        return said
    about = {"classes": meta.classes, "palette": meta.palette, "recipe": meta.recipe, "scores": meta.scores}
    said |= {"paper": meta.paper, "recipe_name": meta.recipe_name}
    return said | {name: json.dumps(value) for name, value in about.items()}


def open_session(content: bytes | str) -> Any:
    """Return an onnxruntime session on the CPU, with one thread per core that torch may use."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # its remarks on unused constants are not the user's
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def runner(session: Any) -> Callable[[Tensor], list[Tensor]]:
    """Return what runs a session on an image, as `check_values` wants it."""

    def run(image: Tensor) -> list[Tensor]:
        return [torch.from_numpy(part) for part in session.run(None, {"image": image.cpu().numpy()})]

    return run
