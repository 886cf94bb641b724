"""Parity of IIWA's blocks and backbone alone: every stage, gradients of inputs and parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from iiwa.attention import CrossIIWA, SelfIIWA, match, pad_to_windows, prepare_memory, sine_position, window_means
from iiwa.names import ATTENTION_LEAVES, FUSION_LEAVES, POOLS, leaf_renames
from iiwa.neck import CascadeNeck, CrossFusion, Fusion, PlainFusion
from iiwa.recipes import IIWAModel
from segcore.backbones.swin import Swin
from segcore.backbones.swin_names import INDEX_TABLE, OPENMMLAB
from segcore.weights.names import NameMap
from tests.parity.building import compare_norms, count, gradient_norms, one_of, record, settled, tensor
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.fill import image

_SEED_OF_WEIGHTS = 9
_OUTPUT = 1e-5  # of the standard deviation, the case's own suggestion
_GRADIENT = 1e-3
ATTENTION = NameMap(leaf_renames(ATTENTION_LEAVES), companions=(INDEX_TABLE,))
FUSION = NameMap(leaf_renames(FUSION_LEAVES), transforms=(POOLS,))
NECK = NameMap(
    ((r"^fuse(\d)\.0\.", r"fuse\1."), *leaf_renames(FUSION_LEAVES, r"fuse\d\.")),  # the case has no rounds
    transforms=(POOLS,),
)


def _inputs(case: ParityCase, layout: str) -> dict[str, Tensor]:
    inputs: dict[str, Tensor] = {}
    for name in case.data["inputs"]:
        given = case.data["inputs"][name]
        settled(given, layout=layout)
        inputs[name] = tensor(given).requires_grad_()
    return inputs


def _load(module: nn.Module, names: NameMap, case: ParityCase) -> Comparison:
    module.load_state_dict(names.convert(module, case.published_state()), strict=True)
    module.eval()
    return Comparison("parameters", count(module), case.data["params"], atol=0)


def _compare_outputs(case: ParityCase, values: Mapping[str, Tensor]) -> Iterator[Comparison]:
    published, order = case.data["outputs"], list(values)  # of computation
    for name in sorted(published, key=order.index):
        yield Comparison(name, values[name], published[name], atol=_OUTPUT)


def _compare_gradients(
    case: ParityCase, module: nn.Module, names: NameMap, inputs: Mapping[str, Tensor], out: Tensor
) -> Iterator[Comparison]:
    weighted = (out * torch.from_numpy(image(tuple(out.shape), _SEED_OF_WEIGHTS))).sum()
    spread = math.sqrt(out.numel()) * float(out.detach().std())  # the sum of as many errors of either sign
    published, grads = case.data["losses"]["weighted_sum"], case.data["grads"]
    yield Comparison("weighted_sum", float(weighted.detach()), published, atol=_OUTPUT * spread)
    weighted.backward()
    for name in grads["inputs"]:
        yield Comparison(f"gradient of {name}", inputs[name].grad, grads["inputs"][name], atol=_GRADIENT)
    norms = gradient_norms(module, names.to_published)
    yield from compare_norms(norms, grads["param_l2"], rtol=_GRADIENT, atol=0)


def position(case: ParityCase) -> Iterator[Comparison]:
    """Yield the position map of a shape; the channels-last one has the same numbers."""
    settled(case.data["config"], normalize=True, temperature=10_000)
    given = case.data["inputs"]["x"]
    is_last = one_of(given["layout"], "NCHW", "NHWC") == "NHWC"
    if is_last:
        batch, height, width, channels = given["shape"]
    else:
        batch, channels, height, width = given["shape"]
    table = sine_position(height, width, channels, torch.device("cpu")).view(height, width, channels)
    ours = (table if is_last else table.permute(2, 0, 1)).expand(batch, -1, -1, -1)
    yield Comparison("params", 0, case.data["params"], atol=0)
    yield Comparison("pos", ours, case.data["outputs"]["pos"], atol=_OUTPUT)


def _record_attention(block: SelfIIWA | CrossIIWA) -> dict[str, Tensor]:
    inputs = {"intra_residual": block.intra_proj, "inter_residual": block.inter_proj, "before_ffn": block.norm1}
    return record({"intra_proj": block.intra_proj, "inter_proj": block.inter_proj, "out": block}, inputs)


def self_attention(case: ParityCase) -> Iterator[Comparison]:
    """Yield the stages of self-IIWA."""
    config, inputs = case.data["config"], _inputs(case, "NHWC")
    settled(config, qkv_bias=True)
    window = tuple(config["window_size"])
    block = SelfIIWA(config["dim"], window, config["num_heads"], mlp_ratio=config["mlp_ratio"])
    yield _load(block, ATTENTION, case)
    values = _record_attention(block)
    out = block(inputs["x"])
    yield from _compare_outputs(case, values)
    yield from _compare_gradients(case, block, ATTENTION, inputs, out)


def cross_attention(case: ParityCase) -> Iterator[Comparison]:
    """Yield similarities, matched windows and the stages of cross-IIWA on memory1, memory2, ..."""
    config, inputs = case.data["config"], _inputs(case, "NHWC")
    window = tuple(config["window_size_q"])
    settled(config, qkv_bias=True, window_size_k=list(window))
    block = CrossIIWA(config["dim"], window, config["num_heads"], mlp_ratio=config["mlp_ratio"])
    yield _load(block, ATTENTION, case)
    values = _record_attention(block)
    levels = sorted((name for name in inputs if name.startswith("memory")), key=lambda name: int(name[6:]))
    memory = prepare_memory([inputs[name] for name in levels], window)
    tokens = window_means(pad_to_windows(inputs["q"], window), window)
    yield Comparison("similarity", tokens @ memory.tokens.mT, case.data["similarity"], atol=_OUTPUT)
    published = torch.tensor(case.data["assignment"])
    rows = torch.arange(len(published))[:, None]
    yield Comparison("matched tokens", match(tokens, memory).tokens, memory.tokens[rows, published].detach(), atol=0)
    out = block(inputs["q"], memory)
    yield from _compare_outputs(case, values)
    yield from _compare_gradients(case, block, ATTENTION, inputs, out)


def _record_fusion(block: Fusion) -> dict[str, Tensor]:
    stages: dict[str, nn.Module] = {"shortcut": block.shortcut, "before_add": block.norm1}
    inputs: dict[str, nn.Module] = {}
    if isinstance(block, PlainFusion):
        stages["mlp"] = block.mlp
    if isinstance(block, CrossFusion):
        stages |= {"intra_proj": block.intra_proj, "inter_proj": block.inter_proj}
        stages |= {"query_windows_pooled": block.query_pool, "key_windows_pooled": block.key_pool}
        inputs = {"intra_residual": block.intra_proj, "inter_residual": block.inter_proj}
    return record(stages, inputs)


def fusion(case: ParityCase) -> Iterator[Comparison]:
    """Yield the stages of a fusion block of either type."""
    config, inputs = case.data["config"], _inputs(case, "NCHW")
    settled(config, in_chans2=config["d_model"])
    kind = PlainFusion if case.data["module"] == "TransFusion" else CrossFusion
    windows = tuple(config["win_size_k"]), tuple(config["win_size_q"])
    block = kind(config["in_chans1"], config["d_model"], config["nhead"], *windows)
    yield _load(block, FUSION, case)
    values = _record_fusion(block)
    out = block(inputs["x1"], inputs["x2"])
    values["out"] = out.detach()
    outputs = case.data["outputs"]
    for name in ("query_windows_pooled", "key_windows_pooled"):  # as maps of the grid
        if name in outputs:
            values[name] = values[name].mT.reshape(outputs[name]["shape"])
    yield from _compare_outputs(case, values)
    yield from _compare_gradients(case, block, FUSION, inputs, out)


def neck(case: ParityCase) -> Iterator[Comparison]:
    """Yield the three maps of the cascade, coarse to fine."""
    config, inputs = case.data["config"], _inputs(case, "NCHW")
    windows = [tuple(size) for size in config["patch_sizes"]]  # key and query of F1, F2, F3
    strides = [4]
    for key, query in zip(windows[::2], windows[1::2], strict=True):
        strides.append(strides[-1] * query[0] // key[0])
    settled(config, d_models=config["in_channels"][:-1])
    kind = "2" if case.data["module"].endswith("2") else "1"
    options = IIWAModel(backbone="", fusion=kind, fusion_heads=tuple(config["n_head"]), fusion_window=windows[0])
    cascade = CascadeNeck(config["in_channels"], strides, options)
    blocks: list[Any] = [getattr(cascade, f"fuse{i}")[0] for i in (1, 2, 3)]
    ours = [size for block in blocks for size in (block.key_window, block.query_window)]
    yield Comparison("windows", ours, windows, atol=0)
    yield _load(cascade, NECK, case)
    with torch.no_grad():
        y1, y2, y3 = cascade([inputs[f"x{i}"] for i in (1, 2, 3, 4)])
    yield from _compare_outputs(case, {"y3": y3, "y2": y2, "y1": y1})


def swin(case: ParityCase) -> Iterator[Comparison]:
    """Yield the levels of a Swin with IIWA's strides."""
    config, published = case.data["config"], case.data["outputs"]
    settled(config, mlp_ratio=4, qkv_bias=True, patch_norm=True)
    backbone = Swin(
        "swin_tiny_patch4_window7_224",  # all that the name stands for is replaced
        pretrained=False,
        merge_strides=tuple(config["strides"]),
        embed_dim=config["embed_dims"],
        depths=tuple(config["depths"]),
        num_heads=tuple(config["num_heads"]),
        window_size=config["window_size"],
    )
    yield _load(backbone, OPENMMLAB, case)
    with torch.no_grad():
        levels = backbone(tensor(case.data["input"]))
    for i in config["out_indices"]:
        yield Comparison(f"level{i}", levels[i], published[f"level{i}"], atol=3 * _OUTPUT)
