"""Parity of the memory's update, the object context, and the schedules of learning rate and momentum."""

from __future__ import annotations

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
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.fill import fill, image, labels


def compare_updates(case: ParityCase) -> Iterator[Comparison]:
    """Carry a memory through the steps of a case; several ranks are run one after the other, then averaged."""
    data = case.data
    memory = _memory_before(data["memory_before"])
    settings = _settings(data)
    for number, step in enumerate(data["steps"], 1):
        momentum = settings.momentum_at(step["learning_rate"])
        updates = []
        for rank in step.get("ranks", [step]):
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
    return MemorySettings(
        strategy=data["strategy"],
        momentum=momentum["base_momentum"],
        momentum_lr=momentum["base_lr"] if momentum["adjust_by_learning_rate"] else 0.0,
    )


def _batch(data: Mapping[str, Any], rank: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return features (B, C, h, w) and label (B, H, W) of one step of one rank."""
    batch = data.get("batch", data.get("batch_per_rank"))
    features = image((batch, data["channels"], *data["feature_size"]), rank["feature_seed"])
    label = labels((batch, *data["label_size"]), data["num_classes"], seed=rank["label_seed"])
    if "every pixel set to 255" in data.get("label_rule", ""):
        label[:] = 255
    seen = sorted(set(np.unique(label).tolist()) - {255})
    assert seen == rank.get("classes_seen", seen)
    return torch.from_numpy(features), torch.from_numpy(label)


def compare_object_context(case: ParityCase) -> Iterator[Comparison]:
    """Compare the object-context block by its stages."""
    inputs = {
        name: torch.from_numpy(image(tuple(given["shape"]), given["seed"]))
        for name, given in case.data["input"].items()
    }
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
    for name, published in case.data["outputs"].items():
        yield Comparison(name, values[name], published)


def compare_schedules(case: ParityCase) -> Iterator[Comparison]:
    """Compare learning rate, groups' rates and momentum at each listed iteration."""
    for given in case.data["schedules"]:
        total, lr = given["epochs"] * given["iterations_per_epoch"], given["lr"]
        min_lr = 0.01 * lr if given["min_lr"] is None else given["min_lr"]
        schedule = Schedule(iterations=total, power=given["power"], min_lr=min_lr, family="S")
        settings = MemorySettings(momentum=0.9, momentum_lr=given["momentum_base_lr"])
        factors = [1.0] if given["backbone_multiplier"] is None else [1.0, given["backbone_multiplier"]]
        for row in given["values"]:
            where = f"{given['recipe']}, iteration {row['iteration']}"
            rates = [learning_rate(schedule, total, lr, factor, row["iteration"]) for factor in factors]
            yield Comparison(f"{where}: lr", rates[0], row["lr"], rtol=1e-12, atol=0)
            # the groups' order is the reference's own
            yield Comparison(f"{where}: group_lrs", sorted(rates), sorted(set(row["group_lrs"])), rtol=1e-12, atol=0)
            yield Comparison(f"{where}: momentum", settings.momentum_at(rates[0]), row["momentum"], 1e-12, 0)
