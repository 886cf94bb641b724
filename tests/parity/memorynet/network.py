"""Parity of full networks: every stage in evaluation, losses, gradients and memory of a training step in float64."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from memorynet.model import MemoryNet
from memorynet.names import infer_model, name_map
from memorynet.recipes import DILATIONS, MemoryNetModel
from segcore.segmentor import StepInfo, Target
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.fill import image, labels

_LOSSES = {
    "loss_cls_stage1": "first.loss_ce",
    "loss_cls_stage2": "decode.loss_ce",
    "loss_memory": "memory.loss_consistency",
    "loss_aux": "aux_0.loss_ce",
    **{f"loss_aux{i + 1}": f"aux_{i}.loss_ce" for i in range(3)},
}


def _options(case: ParityCase) -> MemoryNetModel:
    """Return the options of the case's network: from its shapes, and from its settings where shapes cannot tell."""
    config, training = case.data["config"], case.data.get("training")
    changes: dict[str, Any] = {}
    if training:
        momentum = training["update"]["momentum_cfg"]
        changes = {
            "strategy": training["update"]["strategy"],
            "momentum": momentum["base_momentum"],
            "momentum_lr": momentum["base_lr"] if momentum["adjust_by_learning_rate"] else 0.0,
            "consistency_loss": float("loss_memory" in case.data["losses"]),
        }
    given = MemoryNetModel(
        backbone="resnet18",
        pretrained=False,
        dropout=0.0,
        dilations=tuple(config.get("dilations", _dilations(case.data["variant"]))),
        activation="LeakyReLU" if config.get("leaky") else "ReLU",
        slots=config.get("slots", 1),  # `strategy` is checked against it
        **changes,
    )
    options = infer_model(given, {name: tuple(shape) for name, shape in case.data["state_dict"].items()})
    assert isinstance(options, MemoryNetModel)
    return options


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
    parts = {"params": model, "params_backbone": model.backbone, "params_auxiliary": model.auxiliary}
    for name, part in parts.items():
        if name in case.data and isinstance(part, nn.Module):
            yield Comparison(name, sum(p.numel() for p in part.parameters()), case.data[name], atol=0)


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


def _record(model: MemoryNet, case: ParityCase) -> dict[str, Tensor]:
    """Run the network in evaluation mode and return every stage's output."""
    values: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _m, _i, output, name=name: values.update({name: output.clone()}))
        for name, module in _stages(model).items()
    ]
    handles.append(model.levels.register_forward_hook(lambda _m, i, o: values.update(_levels(model, i[0], o))))
    given = case.data["input"]
    with torch.no_grad():
        model(torch.from_numpy(image(tuple(given["shape"]), given["seed"])))
        levels = values.pop("levels").unbind() if "levels" in values else _unpack(values)
        auxiliary = [head(levels) for head in model.auxiliary or ()]
        names = ["logits_aux"] if len(auxiliary) == 1 else [f"logits_aux.{i}" for i in range(len(auxiliary))]
        values |= dict(zip(names, auxiliary, strict=True))
        weights = model.head.read.weights(values["logits_stage1"])
        for j, rows in enumerate(model.head.memory.rows.unbind(dim=1)):
            values[f"aggregated_memory.{j}"] = torch.einsum("bkhw,kc->bchw", weights, rows)
    for handle in handles:
        handle.remove()
    return values


def _levels(model: MemoryNet, levels: list[Tensor], outputs: list[Tensor]) -> dict[str, Tensor]:
    """Return the backbone's maps and what became of them, by the cases' names."""
    values = {f"backbone.{i}": level for i, level in enumerate(levels)}
    values |= {f"level.{i}": output for i, output in enumerate(outputs)}
    options = type(model.levels).__name__
    if options == "NormalizedLevels":
        names = [f"norm_layers.{i} (N, tokens, C)" for i in range(len(outputs))]
        values |= {n: rearrange(o, "n c h w -> n (h w) c") for n, o in zip(names, outputs, strict=True)}
    if options == "ConcatenatedLevels":
        values["downsample_backbone"] = outputs[0]
        sizes = [nn.functional.interpolate(x, levels[0].shape[-2:], mode="bilinear") for x in levels]
        values["backbone.0"] = torch.cat(sizes, dim=1)
    return values


def _unpack(values: dict[str, Tensor]) -> list[Tensor]:
    """Return what the auxiliary heads see."""
    return [values[f"level.{i}"] for i in range(sum(name.startswith("level.") for name in values))]


def _compare_stages(case: ParityCase, model: MemoryNet) -> Iterator[Comparison]:
    values = _record(model, case)
    for name, published in case.data["outputs"].items():
        if name != "logits":
            yield Comparison(name, values[name], published)
    yield Comparison("logits", values["logits"], case.data["outputs"]["logits"])


def _compare_step(case: ParityCase, model: MemoryNet) -> Iterator[Comparison]:
    """Compare a training step; the cases computed it in float64."""
    training, names = case.data["training"], name_map(model)
    wanted = case.data["grad_norms"]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(names.to_published(name) in wanted)  # gradients of ViT-L would take 3 GB more
    model = model.double().train()
    given, drawn = training["input"], training["labels"]
    images = torch.from_numpy(image(tuple(given["shape"]), given["seed"])).double()
    size = (given["shape"][0], *given["shape"][2:])
    label = torch.from_numpy(labels(size, drawn["num_classes"], drawn["ignore"], drawn["seed"]))
    step = StepInfo(iteration=0, total=1, lr=training["learning_rate"], epoch=training["epoch"])
    terms = model.losses(images, Target(label), step)
    total = torch.stack([value for name, value in terms.items() if "loss" in name]).sum()
    yield from _compare_terms(case, {**terms, "total": total})
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
    gradients = {names.to_published(name): p.grad for name, p in model.named_parameters() if p.grad is not None}
    for name, published in wanted.items():
        yield Comparison(f"gradient norm of {name}", float(gradients[name].norm()), published, rtol=1e-6, atol=0)


def _compare_terms(case: ParityCase, terms: Mapping[str, Tensor]) -> Iterator[Comparison]:
    expected = case.data["losses"]
    assert {name for name in terms if "loss" in name} == {_LOSSES[name] for name in expected if name != "total"}
    for name, published in expected.items():
        value = terms["total" if name == "total" else _LOSSES[name]]
        # single terms were rounded to float32 by the reference's logging, the total was not
        yield Comparison(name, value.detach(), published, rtol=1e-9 if name == "total" else 1e-6, atol=0)
