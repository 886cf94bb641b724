"""Parity of full networks: every stage in evaluation, losses, gradients and memory of a training step in float64."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from memorynet.context import ConcatenatedLevels, NormalizedLevels
from memorynet.model import MemoryNet
from memorynet.names import infer_model, name_map
from memorynet.recipes import DILATIONS, HRNET_W48, R50, R101, S101, VIT_L, MemoryNetModel
from segcore.segmentor import StepInfo, Target
from tests.parity.building import compare_norms, count, gradient_norms, label, record, settled, tensor
from tests.parity.case_files import Comparison, ParityCase

_FLOAT32 = 5e-2
"""The reference's own run in float32 is so far away: batch statistics of few samples (2e-2 with ResNeSt)."""
_LOSSES = {
    "loss_cls_stage1": "first.loss_ce",
    "loss_cls_stage2": "decode.loss_ce",
    "loss_memory": "memory.loss_consistency",
    "loss_aux": "aux_0.loss_ce",
    **{f"loss_aux{i + 1}": f"aux_{i}.loss_ce" for i in range(3)},
}
_BACKBONES = {"resnet50": R50, "resnet101": R101, "resnest101": S101, "hrnetv2_w48": HRNET_W48, "vitl": VIT_L}
_DEFAULTS = {"ctx": "aspp", "slots": 1, "down": False}
"""What a case means that leaves these out."""
_IN_SHAPES = {"ctx": "context", "slots": "slots", "down": "reduction"}
"""Settings that the tensors tell, too, and our names of them."""


def _options(case: ParityCase) -> MemoryNetModel:
    """Return the options of the case's network: from its settings, and its widths from the shapes."""
    data, config = case.data, case.data["config"]
    settled(config, nc=data["num_classes"])
    given = replace(
        _BACKBONES[config["backbone"]],
        pretrained=False,
        dropout=0.0,
        dilations=tuple(config.get("dilations", _dilations(data["variant"]))),
        activation="LeakyReLU" if config.get("leaky") else "ReLU",
        read="hard" if config.get("hard") else "soft",
        slots=config.get("slots", _DEFAULTS["slots"]),
        consistency_loss=float(config.get("use_loss", True)),
        **_momentum(data),
    )
    found = infer_model(given, case.published_shapes())
    assert isinstance(found, MemoryNetModel)
    said = {ours: config.get(theirs, _DEFAULTS[theirs]) for theirs, ours in _IN_SHAPES.items()}
    settled(said, **{name: getattr(found, name) for name in said})
    settled({"backbone": given.backbone}, backbone=found.backbone)
    return found


def _momentum(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the memory's update; a network that is not trained tells its base rate only."""
    base_lr = data["config"].get("base_lr", 0.01)
    if "training" not in data:
        return {"momentum_lr": base_lr}
    update = data["training"]["update"]
    momentum = update["momentum_cfg"]
    settled(momentum, base_lr=base_lr)
    settled(update, ignore_index=data["training"]["labels"]["ignore"])
    return {
        "strategy": update["strategy"],
        "momentum": momentum["base_momentum"],
        "momentum_lr": base_lr if momentum["adjust_by_learning_rate"] else 0.0,
    }


def _dilations(variant: str) -> tuple[int, ...]:
    """Read the dilations in a case's description; the published default where it names none."""
    match = re.search(r"dilations (\d+(?:,\d+)+)", variant)
    return tuple(int(number) for number in match[1].split(",")) if match else DILATIONS


def compare(case: ParityCase) -> Iterator[Comparison]:
    """Yield our value beside the published one."""
    with torch.device("meta"):
        model = MemoryNet(_options(case), case.data["num_classes"])
    tensors = name_map(model).convert(model, case.published_state())
    counter = model.head.memory.num_batches_tracked  # ours alone: no published file has it
    tensors["head.memory.num_batches_tracked"] = torch.zeros(counter.shape, dtype=counter.dtype)
    model.load_state_dict(tensors, strict=True, assign=True)  # assign: no second copy of ViT-L's 1.5 GB
    del tensors
    yield from _compare_params(case, model)
    yield from _compare_stages(case, model.eval())
    if "training" in case.data:
        yield from _compare_step(case, model)


def _compare_params(case: ParityCase, model: MemoryNet) -> Iterator[Comparison]:
    totals = {"params": count(model), "params_backbone": count(model.backbone), "params_auxiliary": 0}
    totals |= {"params_head": totals["params"] - totals["params_backbone"]}
    if isinstance(model.auxiliary, nn.Module):
        totals["params_auxiliary"] = count(model.auxiliary)
    for name, total in totals.items():
        if name in case.data:
            yield Comparison(name, total, case.data[name], atol=0)


def _stages(model: MemoryNet) -> dict[str, nn.Module]:
    """Return our modules by the names that the cases give to their outputs."""
    head = model.head
    reads = {f"memory_attention.{j}": attention.out for j, attention in enumerate(head.read.attentions)}
    stages = {
        "bottleneck": head.first.bottleneck,
        "logits_stage1": head.first.classify,
        **reads,
        "memory_bottleneck": head.bottleneck,
        "memory_output": head.bottleneck,
        "logits": head.classify,
    }
    if head.context is not None:
        stages["context_within_image"] = head.context
        stages["context_attention"] = head.context_attention
        stages["memory_output"] = head.context_bottleneck
    return stages  # pyright: ignore[reportReturnType]


@torch.no_grad()
def _record(model: MemoryNet, case: ParityCase) -> dict[str, Tensor]:
    """Run the network in evaluation mode and return every stage's output, in the order of computation."""
    values = record({"levels": model.levels, **_stages(model)}, inputs={"backbone": model.levels})
    model(tensor(case.data["input"]))
    levels = values.pop("levels")
    values |= _levels(model, values.pop("backbone"), levels)
    logits = values.pop("logits")
    auxiliary = [head(levels) for head in model.auxiliary or ()]
    names = ["logits_aux"] if len(auxiliary) == 1 else [f"logits_aux.{i}" for i in range(len(auxiliary))]
    values |= dict(zip(names, auxiliary, strict=True))
    weights = model.head.read.weights(values["logits_stage1"])
    for j, rows in enumerate(model.head.memory.rows.unbind(dim=1)):
        values[f"aggregated_memory.{j}"] = torch.einsum("bkhw,kc->bchw", weights, rows)
    return {**values, "logits": logits}


def _levels(model: MemoryNet, levels: list[Tensor], outputs: list[Tensor]) -> dict[str, Tensor]:
    """Return the backbone's maps and what became of them, by the cases' names."""
    values = {f"backbone.{i}": level for i, level in enumerate(levels)}
    if isinstance(model.levels, NormalizedLevels):
        names = [f"norm_layers.{i} (N, tokens, C)" for i in range(len(outputs))]
        values |= {n: rearrange(o, "n c h w -> n (h w) c") for n, o in zip(names, outputs, strict=True)}
    if isinstance(model.levels, ConcatenatedLevels):
        values["downsample_backbone"] = outputs[0]
        sizes = [nn.functional.interpolate(x, levels[0].shape[-2:], mode="bilinear") for x in levels]
        values["backbone.0"] = torch.cat(sizes, dim=1)
    return values


def _compare_stages(case: ParityCase, model: MemoryNet) -> Iterator[Comparison]:
    published, values = case.data["outputs"], _record(model, case)
    for name in sorted(published, key=lambda name: name == "logits"):  # the result last
        yield Comparison(name, values[name], published[name])


def _compare_step(case: ParityCase, model: MemoryNet) -> Iterator[Comparison]:
    """Compare a training step; the cases computed it in float64."""
    training, names = case.data["training"], name_map(model)
    wanted = case.data["grad_norms"]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(names.to_published(name) in wanted)  # gradients of ViT-L would take 3 GB more
    model = model.double().train()
    images = tensor(training["input"]).double()
    target = label(training["labels"], (len(images), *images.shape[2:]))
    step = StepInfo(iteration=0, total=1, lr=training["learning_rate"], epoch=training["epoch"])
    losses = model.losses(images, Target(target), step)
    total = losses.total()
    yield from _compare_terms(case, {**losses.terms, "total": total})
    norm: Any = model.head.classify.transform.bn
    after = {
        "memory_after": model.head.memory.rows,
        "stage2_bn_running_mean": norm.running_mean,
        "stage2_bn_running_var": norm.running_var,
        "stage2_bn_num_batches_tracked": norm.num_batches_tracked,
    }
    for name, value in after.items():
        yield Comparison(name, value, training[name], rtol=1e-6, atol=1e-6)
    total.backward()
    yield from compare_norms(gradient_norms(model, names.to_published), wanted, rtol=1e-6, atol=0)


def _compare_terms(case: ParityCase, terms: Mapping[str, Tensor]) -> Iterator[Comparison]:
    exact, rough = case.data["losses"], case.data.get("losses_float32", {})
    assert terms.keys() == {"total", *(_LOSSES[name] for name in exact if name != "total")}
    for name in exact:
        value = terms["total" if name == "total" else _LOSSES[name]].detach()
        # single terms were rounded to float32 by the reference's logging, the total was not
        yield Comparison(name, value, exact[name], rtol=1e-9 if name == "total" else 1e-6, atol=0)
        if name in rough:
            yield Comparison(f"{name} of a run in float32", value, rough[name], rtol=_FLOAT32, atol=0)
