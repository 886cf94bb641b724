"""Parity of the memory's update, the object context, and the schedules of learning rate and momentum."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memorynet.context import ObjectContext
from memorynet.memory import update_memory
from memorynet.recipes import MemorySettings
from segcore.recipe import Schedule
from segcore.training.optim import learning_rate
from tests.parity.building import IGNORE, settled, tensor
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.fill import fill, image, labels
from tests.parity.formulas import evaluate


def compare_updates(case: ParityCase) -> Iterator[Comparison]:
    """Carry a memory through the steps of a case; several ranks are run one after the other, then averaged."""
    data = case.data
    memory = _memory_before(data["memory_before"])
    settled(data, num_classes=memory.shape[0], slots=memory.shape[1], channels=memory.shape[2])
    settings = _settings(data)
    for number, step in enumerate(data["steps"], 1):
        momentum = settings.momentum_at(step["learning_rate"])
        updates = []
        ranks = step.get("ranks", [step])
        settled(data, world_size=len(ranks))
        for rank in ranks:
            features, label = _batch(data, rank)
            updates.append(update_memory(memory, features, label, momentum, strategy=settings.strategy))
        memory = torch.stack(updates).mean(dim=0)
        yield Comparison(f"memory after step {number}", memory, step["memory"], atol=1e-5)
        if "class_norms" in step:
            yield Comparison(f"norms after step {number}", memory.norm(dim=-1).flatten(), step["class_norms"], 1e-5)


def _memory_before(given: Mapping[str, Any]) -> Tensor:
    memory = torch.from_numpy(fill(given["fill_name"], tuple(given["shape"])))
    zeroed = given["zeroed"]
    if zeroed == "all":
        return torch.zeros_like(memory)
    for class_id, slot in zeroed:
        memory[class_id, slot] = 0
    return memory


def _settings(data: Mapping[str, Any]) -> MemorySettings:
    momentum = data["momentum"]
    base_lr = momentum["base_lr"]
    return MemorySettings(
        strategy=data["strategy"],
        momentum=momentum["base_momentum"],
        momentum_lr=base_lr if momentum["adjust_by_learning_rate"] else 0.0,
    )


def _batch(data: Mapping[str, Any], rank: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return features (B, C, h, w) and label (B, H, W) of one step of one rank."""
    batch = data.get("batch", data.get("batch_per_rank"))
    features = image((batch, data["channels"], *data["feature_size"]), rank["feature_seed"])
    label = labels((batch, *data["label_size"]), data["num_classes"], seed=rank["label_seed"])
    label[_unlabeled(data.get("label_rule", ""), label, data["num_classes"])] = IGNORE
    settled(rank, classes_seen=sorted(set(np.unique(label).tolist()) - {IGNORE}))
    return torch.from_numpy(features), torch.from_numpy(label)


def _unlabeled(rule: str, label: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the pixels that a rule sets to 255: none ("labels() as is"), every pixel, or those of a condition.

    A condition is a formula of `label` and `num_classes`, such as "label >= num_classes // 2".
    """
    if rule == "" or "as is" in rule:
        return np.zeros(label.shape, bool)
    for part in re.split(r"(?:\bare |\bis )?\bset to\b|[;,]", rule):
        if condition := re.search(r"\blabel (?:is )?([<>=!%].*)", part):
            return evaluate(f"label {condition[1]}", label=label, num_classes=num_classes)
    if re.search(r"\b(?:every|all)\b", rule):
        return np.ones(label.shape, bool)
    raise ValueError(f"cannot read the label rule {rule!r}")


def compare_object_context(case: ParityCase) -> Iterator[Comparison]:
    """Compare the object-context block by its stages."""
    inputs = {name: tensor(case.data["input"][name]) for name in case.data["input"]}
    settled(case.data, num_classes=inputs["coarse_logits"].shape[1])
    state = case.published_state()
    block = ObjectContext(inputs["features"].shape[1], case.data["transform_channels"], "ReLU")
    names = {}
    for name in block.state_dict():
        published = name.removeprefix("attention.").replace(".conv.", ".0.").replace(".bn.", ".1.")
        for part in ("key", "query", "value", "out"):
            published = published.replace(f"{part}.", f"{part}_project.") if published.startswith(part) else published
        names[name] = published
    assert sorted(names.values()) == sorted(state)
    block.load_state_dict({name: state[published] for name, published in names.items()})
    coarse = case.data["gather_scale"] * inputs["coarse_logits"]
    with torch.no_grad():
        block.eval()
        regions = block.regions(inputs["features"], coarse)
        values = {
            "region_context": regions,
            "attention": block.attention(inputs["features"], regions),
            "output": block(inputs["features"], coarse),
        }
    outputs = case.data["outputs"]
    for name in outputs:
        yield Comparison(name, values[name], outputs[name])


def compare_schedules(case: ParityCase) -> Iterator[Comparison]:
    """Compare learning rate, groups' rates and momentum at each listed iteration."""
    for given in case.data["schedules"]:
        total, lr = given["epochs"] * given["iterations_per_epoch"], given["lr"]
        min_lr = 0.01 * lr if given["min_lr"] is None else given["min_lr"]
        schedule = Schedule(iterations=total, power=given["power"], min_lr=min_lr, family="S")
        # a case may leave out the published base momentum
        settings = MemorySettings(momentum=given.get("base_momentum", 0.9), momentum_lr=given["momentum_base_lr"])
        factors = [1.0] if given["backbone_multiplier"] is None else [1.0, given["backbone_multiplier"]]
        for row in given["values"]:
            where = f"{given['recipe']}, iteration {row['iteration']}"
            rates = [learning_rate(schedule, total, lr, factor, row["iteration"]) for factor in factors]
            yield Comparison(f"{where}: lr", rates[0], row["lr"], rtol=1e-12, atol=0)
            # the groups' order is the reference's own
            yield Comparison(f"{where}: group_lrs", sorted(rates), sorted(set(row["group_lrs"])), rtol=1e-12, atol=0)
            yield Comparison(f"{where}: momentum", settings.momentum_at(rates[0]), row["momentum"], 1e-12, 0)
