"""Parity cases of UN-EPT's modules: operator, attention, position maps, layers, branches."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segcore.backbones.vit_levels import resize_positions
from segcore.weights.names import NameMap
from tests.layers.deform_attn.cases import case_inputs
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.fill import image
from unept.context import ContextBranch, DecoderLayer, EncoderLayer, Pyramid, QuerySelfAttention, sine_positions
from unept.model import NUM_DIRECTIONS, SpatialBranch, boundary_head
from unept.names import HEAD_RENAMES
from unept.recipes import UNEPTModel


def tensor(given: dict[str, Any]) -> Tensor:
    """Return an input that a case describes by shape and seed."""
    return torch.from_numpy(image(tuple(given["shape"]), given["seed"]))


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


def _options(case: ParityCase) -> UNEPTModel:
    data = case.data
    return UNEPTModel(
        backbone="none",
        width=data["embed"],
        heads=data["heads"],
        points=data["points"],
        feedforward=data.get("ffn", 1),
        encoder_layers=data.get("depth", 1),
        decoder_layers=data.get("depth", 1),
        dropout=0.0,
        window=8 * data.get("query_grid", 1),
    )


def _sizes(case: ParityCase) -> tuple[tuple[int, int], ...]:
    return tuple((height, width) for height, width in case.data["level_sizes"])


def _compare_params(case: ParityCase, *modules: nn.Module) -> Iterator[Comparison]:
    count = sum(parameter.numel() for module in modules for parameter in module.parameters())
    yield Comparison("params", count, case.data["params"], atol=0)


def operator(case: ParityCase) -> Iterator[Comparison]:
    """The sampling alone, with its three gradients."""
    names = ("output", "grad_value", "grad_locations", "grad_weights")
    for name, value in zip(names, case_inputs(case).run("auto"), strict=True):
        yield Comparison(name, value, case.data["outputs"][name])


def attention(case: ParityCase) -> Iterator[Comparison]:
    """The deformable attention with its projections, at reference points of the case's own."""
    (prefix,) = {re.sub(r"\.[^.]+\.[^.]+$", "", name) for name in case.data["state_dict"]}
    stack = "encoder" if ".encoder." in prefix else "decoder"
    layer = (EncoderLayer if stack == "encoder" else DecoderLayer)(_options(case))
    place = re.sub(r".*\.layers\.(\d+)\..*", rf"head.context.{stack}.\1", prefix)
    name = "attention" if stack == "encoder" else "cross_attention"
    module = getattr(layer, name).deform
    load(f"{place}.{name}.deform", module, case)
    yield from _compare_params(case, module)
    query, value = (tensor(case.data["input"][name]).requires_grad_() for name in ("query", "value"))
    sizes = _sizes(case)
    points = np.random.RandomState(7).rand(1, query.shape[1], len(sizes), 2).astype(np.float32) * 1.2 - 0.1
    output = module(query, torch.from_numpy(points.astype(np.float32)), value, sizes)
    gradients = torch.autograd.grad((output**2).sum(), (query, value))
    for key, ours in zip(("output", "grad_query", "grad_value"), (output, *gradients), strict=True):
        yield Comparison(key, ours, case.data["outputs"][key])


def sine(case: ParityCase) -> Iterator[Comparison]:
    """Position maps of several sizes."""
    channels = case.data["channels"]
    for size, published in case.data["outputs"].items():
        height, width = (int(side) for side in size.split("x"))
        ours = sine_positions(height, width, channels).T.reshape(1, channels, height, width)
        yield Comparison(size, ours, published, atol=1e-5 / published["std"])


def position_table(case: ParityCase) -> Iterator[Comparison]:
    """DeiT's position table, brought from the pretrained size to the window's."""
    ((_, table),) = case.published_state().items()
    published = case.data["outputs"]["resized"]
    old, new = (int((count - 2) ** 0.5) for count in (table.shape[1], published["shape"][1]))
    yield Comparison("resized", resize_positions(table, (new, new), "bicubic", (old, old)), published)


def encoder_layer(case: ParityCase) -> Iterator[Comparison]:
    """One encoder layer on tokens of its own, each image with positions of its own."""
    layer = EncoderLayer(_options(case)).eval()
    load("head.context.encoder.0", layer, case)
    yield from _compare_params(case, layer)
    tokens, positions = (tensor(case.data["input"][name]) for name in ("src", "pos"))
    with torch.no_grad():
        output = layer(Pyramid(tokens, _sizes(case)), positions)
    yield Comparison("output", output, case.data["outputs"]["output"])


def decoder_layer(case: ParityCase) -> Iterator[Comparison]:
    """One decoder layer on two images that influence each other, and on the first alone."""
    layer = DecoderLayer(_options(case)).eval()
    load("head.context.decoder.0", layer, case)
    yield from _compare_params(case, layer)
    queries, memory = tensor(case.data["input"]["tgt"]).transpose(0, 1), tensor(case.data["input"]["memory"])
    size, sizes = (case.data["query_grid"],) * 2, _sizes(case)
    with torch.no_grad():
        alone = layer(queries[:1], size, Pyramid(memory[:1], sizes))
        both = layer(queries, size, Pyramid(memory, sizes))
        couple_images(layer)
        coupled = layer(queries, size, Pyramid(memory, sizes))
    yield Comparison("output_batch2", coupled.transpose(0, 1), case.data["outputs"]["output_batch2"])
    for name, ours in (("alone", alone), ("first of a batch in evaluation", both[:1])):
        assert ours.shape[0] == 1, name
        yield Comparison(name, ours.transpose(0, 1), case.data["outputs"]["output_first_image_alone"])


def context_branch(case: ParityCase) -> Iterator[Comparison]:
    """The whole context branch; the query embedding is added here, as the case leaves it to the reader."""
    branch = ContextBranch(_options(case)).eval()
    inputs = case.data["input"]
    levels = [tensor(level) for level in inputs["levels"]]
    grid = case.data["query_grid"]
    head = nn.Module()
    head.register_module("context", branch)
    head.register_parameter("query_embedding", nn.Parameter(torch.zeros(grid**2, case.data["embed"])))
    load("head", head, case)
    yield from _compare_params(case, branch)
    queries = tensor(inputs["context"]).transpose(0, 1) + head.get_parameter("query_embedding")
    with torch.no_grad():
        output = branch(levels, queries, (grid, grid))
    yield Comparison("output", output.transpose(0, 1), case.data["outputs"]["output"])


def spatial_branch(case: ParityCase) -> Iterator[Comparison]:
    """Spatial branch and both boundary heads."""
    width = case.data["outputs"]["spatial"]["shape"][1]
    branch, mask, direction = SpatialBranch(width), boundary_head(width, 2), boundary_head(width, NUM_DIRECTIONS)
    load("head", nn.ModuleDict({"spatial": branch, "boundary": mask, "direction": direction}), case)
    yield from _compare_params(case, branch, mask, direction)
    is_training = "train mode" in case.data["notes"].lower()
    with torch.no_grad():
        spatial = branch.train(is_training)(tensor(case.data["input"]))
        outputs = {"spatial": spatial, "mask": mask.train(is_training)(spatial)}
        outputs["direction"] = direction.train(is_training)(spatial)
    for name, value in outputs.items():
        yield Comparison(name, value, case.data["outputs"][name])
