"""Parity adapter of IIWA: builds the block, backbone or loss of a case and compares it with the published values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iiwa.attention import (
    CrossIIWA,
    SelfIIWA,
    match,
    pad_to_windows,
    prepare_memory,
    sine_position,
    window_means,
)
from iiwa.names import ATTENTION_LEAVES, FUSION_LEAVES, POOLS, leaf_renames
from iiwa.neck import CascadeNeck, CrossFusion, Fusion, PlainFusion
from iiwa.recipes import IIWAModel
from segcore.backbones.swin import Swin
from segcore.backbones.swin_names import INDEX_TABLE, OPENMMLAB
from segcore.losses import SegmentationLoss, hard_pixels
from segcore.recipe import Loss, Optim
from segcore.segmentor import resize
from segcore.training.optim import parameter_groups
from segcore.weights.names import NameMap
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.fill import image, labels

_SEED_OF_WEIGHTS = 9
_OUTPUT = 1e-5  # of the standard deviation, the case's own suggestion
_GRADIENT = 1e-3
ATTENTION = NameMap(leaf_renames(ATTENTION_LEAVES), companions=(INDEX_TABLE,))
FUSION = NameMap(leaf_renames(FUSION_LEAVES), transforms=(POOLS,))
NECK = NameMap(
    ((r"^fuse(\d)\.0\.", r"fuse\1."), *leaf_renames(FUSION_LEAVES, r"fuse\d\.")),  # the case has no rounds
    transforms=(POOLS,),
)


def compare(case: ParityCase) -> Iterator[Comparison]:
    """Yield our value beside the published one, in the order of computation."""
    modules: dict[str, Callable[[ParityCase], Iterator[Comparison]]] = {
        "PositionEmbeddingSine": _compare_position,
        "WindowAttention": _compare_self,
        "WindowCrossAttention": _compare_cross,
        "TransFusion": _compare_fusion,
        "TransFusion2": _compare_fusion,
        "cascade of TransFusion2": _compare_neck,
        "SwinTransformer": _compare_swin,
        "loss": _compare_loss,
        "optimizer": _compare_optimizer,
    }
    yield from modules[case.data["module"]](case)


def _inputs(case: ParityCase) -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(image(tuple(given["shape"]), given["seed"])).requires_grad_()
        for name, given in case.data["inputs"].items()
    }


def _load(module: nn.Module, names: NameMap, case: ParityCase) -> Comparison:
    module.load_state_dict(names.convert(module, case.published_state()), strict=True)
    module.eval()
    return Comparison("parameters", sum(p.numel() for p in module.parameters()), case.data["params"], atol=0)


def _keep(values: dict[str, Tensor], name: str, module: nn.Module, *, source: bool = False) -> None:
    """Record the output of a module, or its input."""

    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        values[name] = (inputs[0] if source else output).detach()

    module.register_forward_hook(hook)


def _compare_outputs(case: ParityCase, values: Mapping[str, Tensor]) -> Iterator[Comparison]:
    last = [name for name in case.data["outputs"] if name == "out"]
    for name in [name for name in case.data["outputs"] if name != "out"] + last:
        yield Comparison(name, values[name], case.data["outputs"][name], atol=_OUTPUT)


def _compare_gradients(
    case: ParityCase, module: nn.Module, names: NameMap, inputs: Mapping[str, Tensor], out: Tensor
) -> Iterator[Comparison]:
    weighted = (out * torch.from_numpy(image(tuple(out.shape), _SEED_OF_WEIGHTS))).sum()
    spread = math.sqrt(out.numel()) * float(out.detach().std())  # the sum of as many errors of either sign
    yield Comparison(
        "weighted_sum", float(weighted.detach()), case.data["losses"]["weighted_sum"], atol=_OUTPUT * spread
    )
    weighted.backward()
    for name, published in case.data["grads"]["inputs"].items():
        yield Comparison(f"gradient of {name}", inputs[name].grad, published, atol=_GRADIENT)
    norms = {names.to_published(name): p.grad.norm() for name, p in module.named_parameters() if p.grad is not None}
    for name, published in case.data["grads"]["param_l2"].items():
        yield Comparison(f"gradient norm of {name}", float(norms[name]), published, rtol=_GRADIENT, atol=0)


def _compare_position(case: ParityCase) -> Iterator[Comparison]:
    batch, channels, height, width = case.data["inputs"]["x"]["shape"]
    table = sine_position(height, width, channels, torch.device("cpu"))
    ours = table.view(height, width, channels).permute(2, 0, 1).expand(batch, -1, -1, -1)
    yield Comparison("pos", ours, case.data["outputs"]["pos"], atol=_OUTPUT)


def _watch_attention(block: SelfIIWA | CrossIIWA) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {}
    _keep(values, "intra_residual", block.intra_proj, source=True)
    _keep(values, "intra_proj", block.intra_proj)
    _keep(values, "inter_residual", block.inter_proj, source=True)
    _keep(values, "inter_proj", block.inter_proj)
    _keep(values, "before_ffn", block.norm1, source=True)
    _keep(values, "out", block)
    return values


def _compare_self(case: ParityCase) -> Iterator[Comparison]:
    config = case.data["config"]
    window = tuple(config["window_size"])
    block = SelfIIWA(config["dim"], window, config["num_heads"], mlp_ratio=config["mlp_ratio"])
    yield _load(block, ATTENTION, case)
    values, inputs = _watch_attention(block), _inputs(case)
    out = block(inputs["x"])
    yield from _compare_outputs(case, values)
    yield from _compare_gradients(case, block, ATTENTION, inputs, out)


def _compare_cross(case: ParityCase) -> Iterator[Comparison]:
    config = case.data["config"]
    assert config["window_size_q"] == config["window_size_k"]
    window = tuple(config["window_size_q"])
    block = CrossIIWA(config["dim"], window, config["num_heads"], mlp_ratio=config["mlp_ratio"])
    yield _load(block, ATTENTION, case)
    values, inputs = _watch_attention(block), _inputs(case)
    memory = prepare_memory([inputs[name] for name in inputs if name.startswith("memory")], window)
    tokens = window_means(pad_to_windows(inputs["q"], window), window)
    yield Comparison("similarity", tokens @ memory.tokens.mT, case.data["similarity"], atol=_OUTPUT)
    published = torch.tensor(case.data["assignment"])
    rows = torch.arange(len(published))[:, None]
    yield Comparison("matched tokens", match(tokens, memory).tokens, memory.tokens[rows, published].detach(), atol=0)
    out = block(inputs["q"], memory)
    yield from _compare_outputs(case, values)
    yield from _compare_gradients(case, block, ATTENTION, inputs, out)


def _watch_fusion(block: Fusion) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {}
    _keep(values, "shortcut", block.shortcut)
    _keep(values, "before_add", block.norm1)
    if isinstance(block, PlainFusion):
        _keep(values, "mlp", block.mlp)
    if isinstance(block, CrossFusion):
        _keep(values, "intra_residual", block.intra_proj, source=True)
        _keep(values, "intra_proj", block.intra_proj)
        _keep(values, "inter_residual", block.inter_proj, source=True)
        _keep(values, "inter_proj", block.inter_proj)
        for name, pool in (("query", block.query_pool), ("key", block.key_pool)):
            _keep(values, f"{name}_windows_pooled", pool)
    return values


def _compare_fusion(case: ParityCase) -> Iterator[Comparison]:
    config = case.data["config"]
    assert config["in_chans2"] == config["d_model"]
    kind = PlainFusion if case.data["module"] == "TransFusion" else CrossFusion
    windows = tuple(config["win_size_k"]), tuple(config["win_size_q"])
    block = kind(config["in_chans1"], config["d_model"], config["nhead"], *windows)
    yield _load(block, FUSION, case)
    inputs = _inputs(case)
    values = _watch_fusion(block)
    out = block(inputs["x1"], inputs["x2"])
    values["out"] = out.detach()
    for name in ("query_windows_pooled", "key_windows_pooled"):  # as maps of the grid
        if name in case.data["outputs"]:
            shape = case.data["outputs"][name]["shape"]
            values[name] = values[name].mT.reshape(shape)
    yield from _compare_outputs(case, values)
    yield from _compare_gradients(case, block, FUSION, inputs, out)


def _compare_neck(case: ParityCase) -> Iterator[Comparison]:
    config = case.data["config"]
    windows = [tuple(size) for size in config["patch_sizes"]]  # key and query of F1, F2, F3
    ratio = windows[1][0] // windows[0][0]
    options = IIWAModel(backbone="", fusion_heads=tuple(config["n_head"]), fusion_window=windows[0])
    neck = CascadeNeck(config["in_channels"], (4, 4 * ratio, 4 * ratio, 4 * ratio), options)
    ours = [
        size for fuse in (neck.fuse1, neck.fuse2, neck.fuse3) for size in (fuse[0].key_window, fuse[0].query_window)
    ]
    yield Comparison("windows", ours, windows, atol=0)
    yield _load(neck, NECK, case)
    with torch.no_grad():
        outputs = neck(list(_inputs(case).values()))
    for name, y in reversed(list(zip(("y1", "y2", "y3"), outputs, strict=True))):
        yield Comparison(name, y, case.data["outputs"][name], atol=_OUTPUT)


def _compare_swin(case: ParityCase) -> Iterator[Comparison]:
    config = case.data["config"]
    backbone = Swin(
        "swin_tiny_patch4_window7_224",
        pretrained=False,
        merge_strides=tuple(config["strides"]),
        embed_dim=config["embed_dims"],
        depths=tuple(config["depths"]),
        num_heads=tuple(config["num_heads"]),
        window_size=config["window_size"],
    )
    yield _load(backbone, OPENMMLAB, case)
    given = case.data["input"]
    with torch.no_grad():
        levels = backbone(torch.from_numpy(image(tuple(given["shape"]), given["seed"])))
    for i, level in enumerate(levels):
        yield Comparison(f"level{i}", level, case.data["outputs"][f"level{i}"], atol=3 * _OUTPUT)


def _compare_loss(case: ParityCase) -> Iterator[Comparison]:
    config, given = case.data["config"], case.data["inputs"]
    num_classes = case.data["num_classes"]
    label = torch.from_numpy(labels(tuple(given["labels"]["shape"]), num_classes, seed=given["labels"]["seed"]))
    shape = tuple(given["logits"]["shape"])
    true_class = label[:, 2::4, 2::4].masked_fill(label[:, 2::4, 2::4] == config["ignore_index"], num_classes - 1)
    hot = F.one_hot(true_class, num_classes).permute(0, 3, 1, 2)
    logits = torch.from_numpy(image(shape, given["logits"]["seed"]) + np.float32(6) * hot.numpy().astype(np.float32))
    logits = resize(logits, (label.shape[1], label.shape[2]))
    kept = hard_pixels(logits, label, threshold=config["thresh"], min_kept=config["min_kept"])
    yield Comparison("kept pixels", int(kept.sum()), case.data["ohem_kept_pixels"], atol=0)
    yield Comparison("ohem_weight", kept, case.data["outputs"]["ohem_weight"], atol=0)
    settings = Loss(
        ohem=True,
        ohem_threshold=config["thresh"],
        ohem_min_kept=config["min_kept"],
        class_weight=tuple(config["class_weight"]),
    )
    loss = SegmentationLoss(settings)(logits, label)["loss_ce"]
    yield Comparison("loss", float(loss), case.data["losses"]["loss"], rtol=1e-5, atol=0)


def _compare_optimizer(case: ParityCase) -> Iterator[Comparison]:
    config: dict[str, Any] = case.data["config"]
    lr, decay = (
        {key: rule[kind] for key, rule in config["custom_keys"].items() if kind in rule}
        for kind in ("lr_mult", "decay_mult")
    )
    optim = Optim(lr=config["lr"], weight_decay=config["weight_decay"], lr_mult=lr, decay_mult=decay)
    model = nn.Module()
    published = case.data["outputs"]["lr_and_weight_decay"]
    own = {name.replace(".", "/"): name for name in published}  # a parameter's own name has no dot
    for name in own:
        model.register_parameter(name, nn.Parameter(torch.zeros(1)))
    names = NameMap(((r"/", "."),))
    groups = parameter_groups(model, names, optim)
    ids = {id(p): own[name] for name, p in model.named_parameters()}
    ours = {ids[id(p)]: [group["lr"], group["weight_decay"]] for group in groups for p in group["params"]}
    for name, values in published.items():
        yield Comparison(name, ours[name], values, rtol=1e-12, atol=0)
