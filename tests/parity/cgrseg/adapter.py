"""Parity adapter of CGRSeg: builds the network of a case and compares it by the case's mode."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgrseg.model import CGRSeg
from cgrseg.names import infer_model, name_map
from cgrseg.recipes import CGRSEG_B, CGRSEG_L, CGRSEG_S0, CGRSEG_T, RECIPES, CGRSegModel
from segcore.backbones import create_backbone
from segcore.recipe import Evaluate, Optim
from segcore.segmentor import StepInfo, Target
from segcore.training.optim import build_optimizer
from segcore.weights.names import NameMap
from tests.parity.building import (
    compare_norms,
    count,
    gradient_norms,
    label,
    one_of,
    prediction_counts,
    record,
    scores,
    settled,
    tensor,
)
from tests.parity.case_files import Comparison, ParityCase

_VARIANTS = {"s0": CGRSEG_S0, "s1": CGRSEG_T, "s2": CGRSEG_B, "l": CGRSEG_L}
_CHANGES = {"next_repeat": "pyramid_modules", "channels": "width"}
"""The reference's names of what a variant may change, and ours."""
_STEP = StepInfo(iteration=0, total=1, lr=0.0)
_GRADIENT_FLOOR = 1e-4
"""Share of the total norm below which a case calls a gradient small."""


def compare(case: ParityCase) -> Iterator[Comparison]:
    """Yield our value beside the published one, in the order of computation."""
    mode = case.data["mode"]
    if mode == "optimizer":
        yield from _compare_optimizer(case)
    elif case.data["num_classes"] == 0:
        assert mode == "eval"
        yield from _compare_backbone(case)
    else:
        modes: dict[str, Callable[[ParityCase, CGRSeg], Iterator[Comparison]]] = {
            "eval": _compare_stages,
            "train": _compare_training,
            "inference": _compare_inference,
        }
        model = CGRSeg(options_of(case), case.data["num_classes"])
        _load(model, name_map(model), case)
        yield from _compare_params(case, model, model.backbone, model.head)
        yield from modes[mode](case, model)


def options_of(case: ParityCase) -> CGRSegModel:
    """Return the options of the case's network, without random depth and dropout (cases have none).

    The variant is called e.g. "CGRSeg-B (EfficientFormerV2-S2) {'next_repeat': 5}" or "efficientformerv2_s0_feat".
    """
    variant = case.data["variant"]
    (name,) = re.findall(r"efficientformerv2[-_](s\d|l)(?![a-z])", variant.lower())
    changes = re.search(r"\{.*\}", variant)
    named = {_CHANGES[key]: value for key, value in (ast.literal_eval(changes[0]) if changes else {}).items()}
    options = replace(_VARIANTS[name], pretrained=False, dropout=0.0, drop_path=0.0, **named)
    if case.data["mode"] == "optimizer" or case.data["num_classes"] == 0:
        return options
    found = infer_model(options, case.published_shapes())
    assert isinstance(found, CGRSegModel)
    settled({**named, "backbone": options.backbone}, **{key: getattr(found, key) for key in (*named, "backbone")})
    return found


def _load(model: nn.Module, names: NameMap, case: ParityCase) -> None:
    model.load_state_dict(names.convert(model, case.published_state()), strict=True)


def _compare_params(
    case: ParityCase, model: nn.Module, backbone: nn.Module, head: nn.Module | None
) -> Iterator[Comparison]:
    for name, part in (("params", model), ("params_backbone", backbone), ("params_head", head)):
        yield Comparison(name, count(part), case.data[name], atol=0)


def _backbone_stages(backbone: Any) -> dict[str, nn.Module]:
    stages = {f"stage{i + 1}": stage for i, stage in enumerate(backbone.stages)}
    return {"stem": backbone.stem, "downsample4": backbone.stages[3].downsample, **stages}


def _head_stages(head: Any) -> dict[str, nn.Module]:
    levels = {f"rcm_level{i}": module for i, module in enumerate(head.levels)}
    fuse = {f"fuse_level{i}": module for i, module in enumerate(head.fuse)}
    blocks = {f"pyramid_rcm{i}": module for i, module in enumerate(head.pyramid.blocks)}
    return {
        **blocks,
        **levels,
        **fuse,
        "pyramid_out": head.pyramid.blocks,
        "linear_fuse": head.prior,
        "prior_logits": head.classifier,
        "prototypes": head.prototypes,
        "dpg": head.guidance,
        "logits": head,
    }


def _compare_recorded(case: ParityCase, values: dict[str, Tensor]) -> Iterator[Comparison]:
    published = case.data["outputs"]
    for name in published:
        yield Comparison(name, values[name], published[name])


def _compare_backbone(case: ParityCase) -> Iterator[Comparison]:
    backbone = create_backbone(options_of(case).backbone, pretrained=False, drop_path_rate=0.0)
    wrapper: Any = nn.ModuleDict({"backbone": backbone})
    _load(wrapper, name_map(wrapper), case)
    yield from _compare_params(case, wrapper, backbone, None)
    values = record(_backbone_stages(backbone))
    with torch.no_grad():
        backbone.eval()(tensor(case.data["input"]))
    yield from _compare_recorded(case, values)


def _compare_stages(case: ParityCase, model: CGRSeg) -> Iterator[Comparison]:
    head: Any = model.head
    stages = {**_backbone_stages(model.backbone), **_head_stages(head)}
    values = record(stages, inputs={"pyramid_in": head.pyramid.blocks})
    with torch.no_grad():
        model.eval()(tensor(case.data["input"]))
    yield from _compare_recorded(case, values)


def _compare_training(case: ParityCase, model: CGRSeg) -> Iterator[Comparison]:
    losses = model.train().losses(tensor(case.data["input"]), Target(label(case.data["labels"])), _STEP)
    published, names = case.data["losses"], name_map(model)
    yield Comparison("loss_ce", losses.terms["decode.loss_ce"].detach(), published["loss_ce"], rtol=1e-5, atol=0)
    yield Comparison("acc_seg", losses.logged["decode.acc_seg"], published["acc_seg"], rtol=1e-5, atol=0)
    buffers, after = names.export(model), case.data["after_forward"]
    for name in after:
        yield Comparison(f"{name} after the forward pass", buffers[name], after[name])
    losses.total().backward()
    norms = gradient_norms(model, names.to_published)
    assert len(norms) == len(list(model.parameters())), "a parameter got no gradient"
    yield from compare_norms(norms, case.data["grad_norms"], rtol=1e-3, atol=0)
    total = float(np.sqrt(sum(norm**2 for norm in norms.values())))
    yield Comparison("total gradient norm", total, case.data["grad_norm_total"], rtol=1e-4, atol=0)
    for name in case.data["grad_small"]:
        share = norms[name] / total
        yield Comparison(f"share of {name} in the total norm", share, 0.0, atol=(1 + 1e-3) * _GRADIENT_FLOOR)


def _compare_optimizer(case: ParityCase) -> Iterator[Comparison]:
    """Factors and decays by the rules of our recipe, with the optimizer of the case."""
    base = case.data["base"]
    rules = RECIPES["t-ade20k"].optim  # the same for all variants
    optim = Optim(
        kind=one_of(base["type"].lower(), "adamw", "sgd"),
        lr=base["lr"],
        betas=tuple(base["betas"]),
        eps=base["eps"],
        weight_decay=base["weight_decay"],
        lr_mult=rules.lr_mult,
        decay_mult=rules.decay_mult,
    )
    with torch.device("meta"):
        model = CGRSeg(options_of(case), num_classes=150)
    names = name_map(model)
    published_names = {id(p): names.to_published(name) for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, names, optim)
    ours = {
        published_names[id(p)]: [group["lr"] / base["lr"], group["weight_decay"], *group["betas"], group["eps"]]
        for group in optimizer.param_groups
        for p in group["params"]
    }
    groups = case.data["groups"]
    assert ours.keys() == groups.keys(), "the parameters are not those of the case"
    for name in groups:
        yield Comparison(name, ours[name], [*groups[name], *base["betas"], base["eps"]], rtol=1e-12, atol=0)


def _compare_inference(case: ParityCase, model: CGRSeg) -> Iterator[Comparison]:
    """Images that are padded, cut again, resized, mirrored back and averaged."""
    size, inputs = tuple(case.data["original_size"]), case.data["inputs"]
    means: list[Tensor] = []
    for given in inputs:
        normalized = tensor({"shape": given["image_shape"], "seed": given["seed"]})
        valid, padded = (normalized.shape[-2], normalized.shape[-1]), given["padded_to"]
        images = F.pad(normalized, (0, padded[1] - valid[1], 0, padded[0] - valid[0]))
        mean = scores(model.eval(), images, Evaluate(), size, valid)
        # the case's image is taken as mirrored already; only its probabilities are mirrored back
        means.append(mean.flip(-1) if given["flip"] else mean)
    mean = torch.stack(means).mean(dim=0)
    yield Comparison("probabilities", mean, case.data["outputs"]["probabilities"], atol=1e-3)
    # a few pixels have their two highest classes closer than float32 can tell
    yield Comparison("prediction histogram", prediction_counts(mean), case.data["prediction_histogram"], atol=8)
