"""Parity cases of UN-EPT's modules: operator, attention, position maps, layers, branches."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import torch
from torch import nn

from segcore.backbones.vit_levels import resize_positions
from segcore.weights.names import NameMap
from tests.layers.deform_attn.cases import case_inputs
from tests.parity.building import count, settled, tensor
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.formulas import uniform
from unept.context import (
    ContextBranch,
    DecoderLayer,
    EncoderLayer,
    Pyramid,
    QuerySelfAttention,
    Sizes,
    sine_positions,
)
from unept.model import SpatialBranch, boundary_head
from unept.names import HEAD_RENAMES
from unept.recipes import UNEPTModel


def couple_images(model: nn.Module) -> None:
    """Let the images of a batch influence each other in evaluation too, as the reference does."""
    for module in model.modules():
        if isinstance(module, QuerySelfAttention):
            module.train()


def load(place: str, module: nn.Module, case: ParityCase) -> None:
    """Fill a module that stands at `place` of the network with the tensors of a case, by their published names."""
    for name in reversed(place.split(".")):
        module = nn.ModuleDict({name: module})
    module.load_state_dict(NameMap(HEAD_RENAMES).convert(module, case.published_state()), strict=True)


def _sizes(case: ParityCase) -> Sizes:
    return tuple((height, width) for height, width in case.data["level_sizes"])


def _options(case: ParityCase) -> UNEPTModel:
    data, levels = case.data, len(case.data["level_sizes"])
    settled(data, levels=levels)
    return UNEPTModel(
        backbone="none",
        levels=levels,
        width=data["embed"],
        heads=data["heads"],
        points=data["points"],
        feedforward=data.get("ffn", 1),
        encoder_layers=data.get("depth", 1),
        decoder_layers=data.get("depth", 1),
        dropout=0.0,
        window=8 * data.get("query_grid", 1),
    )


def _layer(case: ParityCase, stack: str) -> str:
    """Return where in the network the layer stands whose tensors a case has."""
    names = [re.match(rf"context_branch\.{stack}\.layers\.(\d+)\.", name) for name in case.published_shapes()]
    (number,) = {match[1] for match in names if match}
    return f"head.context.{stack}.{number}"


def _compare_params(case: ParityCase, *modules: nn.Module) -> Comparison:
    return Comparison("params", count(*modules), case.data["params"], atol=0)


def operator(case: ParityCase) -> Iterator[Comparison]:
    """The sampling alone, with its three gradients."""
    names, published = ("output", "grad_value", "grad_locations", "grad_weights"), case.data["outputs"]
    inputs = case_inputs(case)
    _, _, heads, levels, points = inputs.weights.shape
    settled(case.data, heads=heads, levels=levels, points=points)
    for name, value in zip(names, inputs.run("auto"), strict=True):
        yield Comparison(name, value, published[name])


def attention(case: ParityCase) -> Iterator[Comparison]:
    """The deformable attention with its projections, at the reference points that the notes describe."""
    is_encoder = any(".encoder." in name for name in case.published_shapes())
    stack, name = ("encoder", "attention") if is_encoder else ("decoder", "cross_attention")
    layer = (EncoderLayer if is_encoder else DecoderLayer)(_options(case))
    module = getattr(layer, name).deform
    load(f"{_layer(case, stack)}.{name}.deform", module, case)
    yield _compare_params(case, module)
    query, value = (tensor(case.data["input"][name]).requires_grad_() for name in ("query", "value"))
    sizes, published = _sizes(case), case.data["outputs"]
    (rule,) = re.findall(r"Reference points[^=]*= (.*)", case.data["notes"])
    (seed,) = re.findall(r"RandomState\((\d+)\)", rule)
    points = torch.from_numpy(uniform(rule, (1, query.shape[1], len(sizes), 2), int(seed))).float()
    output = module(query, points, value, sizes)
    gradients = torch.autograd.grad((output**2).sum(), (query, value))
    for key, ours in zip(("output", "grad_query", "grad_value"), (output, *gradients), strict=True):
        yield Comparison(key, ours, published[key])


def sine(case: ParityCase) -> Iterator[Comparison]:
    """Position maps of several sizes."""
    channels, published = case.data["channels"], case.data["outputs"]
    for size in published:
        height, width = (int(side) for side in size.split("x"))
        ours = sine_positions(height, width, channels).T.reshape(1, channels, height, width)
        yield Comparison(size, ours, published[size], atol=1e-5 / published[size]["std"])


def position_table(case: ParityCase) -> Iterator[Comparison]:
    """DeiT's position table, brought from the pretrained size to the window's."""
    given, published = case.data["input"], case.data["outputs"]["resized"]
    table = case.published_state()[given["fill_name"]]
    settled(given, shape=list(table.shape))
    old, new = (math.isqrt(total) for total in (table.shape[1], published["shape"][1]))
    assert table.shape[1] - old**2 == published["shape"][1] - new**2, "class and distillation token, then a square grid"
    yield Comparison("resized", resize_positions(table, (new, new), "bicubic", (old, old)), published)


def encoder_layer(case: ParityCase) -> Iterator[Comparison]:
    """One encoder layer on tokens of its own, each image with positions of its own."""
    layer = EncoderLayer(_options(case)).eval()
    load(_layer(case, "encoder"), layer, case)
    yield _compare_params(case, layer)
    tokens, positions = (tensor(case.data["input"][name]) for name in ("src", "pos"))
    with torch.no_grad():
        output = layer(Pyramid(tokens, _sizes(case)), positions)
    yield Comparison("output", output, case.data["outputs"]["output"])


def decoder_layer(case: ParityCase) -> Iterator[Comparison]:
    """One decoder layer on a batch of images that influence each other, and on the first alone."""
    layer = DecoderLayer(_options(case)).eval()
    load(_layer(case, "decoder"), layer, case)
    yield _compare_params(case, layer)
    queries, memory = tensor(case.data["input"]["tgt"]).transpose(0, 1), tensor(case.data["input"]["memory"])
    size, sizes, published = (case.data["query_grid"],) * 2, _sizes(case), case.data["outputs"]
    with torch.no_grad():
        alone = layer(queries[:1], size, Pyramid(memory[:1], sizes))
        separate = layer(queries, size, Pyramid(memory, sizes))
        couple_images(layer)
        coupled = layer(queries, size, Pyramid(memory, sizes))
    yield Comparison("coupled", coupled.transpose(0, 1), published[f"output_batch{len(queries)}"])
    for name, ours in (("alone", alone), ("first of a batch in evaluation", separate[:1])):
        yield Comparison(name, ours.transpose(0, 1), published["output_first_image_alone"])


def context_branch(case: ParityCase) -> Iterator[Comparison]:
    """The whole context branch; the images of a batch are coupled.

    The query embedding is added here, as the case leaves it to the reader.
    """
    branch = ContextBranch(_options(case)).eval()
    inputs, grid = case.data["input"], case.data["query_grid"]
    levels = [tensor(level) for level in inputs["levels"]]
    settled(case.data, level_sizes=[list(level.shape[-2:]) for level in levels])
    head = nn.Module()
    head.register_module("context", branch)
    head.register_parameter("query_embedding", nn.Parameter(torch.zeros(grid**2, case.data["embed"])))
    load("head", head, case)
    yield _compare_params(case, branch)
    queries = tensor(inputs["context"]).transpose(0, 1) + head.get_parameter("query_embedding")
    if len(queries) > 1:
        couple_images(branch)
    with torch.no_grad():
        output = branch(levels, queries, (grid, grid))
    yield Comparison("output", output.transpose(0, 1), case.data["outputs"]["output"])


def spatial_branch(case: ParityCase) -> Iterator[Comparison]:
    """Spatial branch and both boundary heads, in the mode that the notes name."""
    shapes, published = case.published_shapes(), case.data["outputs"]
    width = shapes["spatial_branch.convblock3.conv1.weight"][0]
    branch = SpatialBranch(width)
    mask, direction = (boundary_head(width, shapes[f"{name}_head.3.weight"][0]) for name in ("mask", "dir"))
    modules = nn.ModuleDict({"spatial": branch, "boundary": mask, "direction": direction})
    load("head", modules, case)
    yield _compare_params(case, modules)
    (mode,) = re.findall(r"\b(eval|train) mode", case.data["notes"].lower())
    modules.train(mode == "train")
    with torch.no_grad():
        spatial = branch(tensor(case.data["input"]))
        outputs = {"spatial": spatial, "mask": mask(spatial), "direction": direction(spatial)}
    for name in published:
        yield Comparison(name, outputs[name], published[name])
