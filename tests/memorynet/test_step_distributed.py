"""A whole training step in two processes; run as a program, this file is one of the two."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from memorynet.memory import update_memory
from memorynet.recipes import PAPER, RECIPES
from segcore import distributed
from segcore.images.region import Box
from segcore.recipe import Recipe
from segcore.training.batches import Batch
from segcore.training.trainer import Trainer
from tests.memorynet.networks import SMALL, batch_of
from tests.memorynet.two_processes import run_two

RULES: tuple[Literal["ranks", "joint"], ...] = ("ranks", "joint")
STEPS = 3
SIZE = (64, 64)


def recipe_of(rule: Literal["ranks", "joint"]) -> Recipe:
    """Return a run of few steps with plain SGD, its small batches divided between two processes."""
    base = RECIPES["toy"]
    return replace(
        base,
        model=replace(SMALL, average=rule, consistency_loss=1.0, momentum_lr=0.1),
        data=replace(base.data, image_size=SIZE, num_images=(8, 2), batch=4, workers=0),
        optim=replace(base.optim, kind="sgd", lr=0.01),
        schedule=replace(base.schedule, iterations=STEPS, warmup=0),
    )


def part_of(rank: int, step: int) -> Batch:
    """Return a process's images of one step; class 0 is the first process's alone, class 3 the second's."""
    image, target = batch_of(*SIZE, classes=(0, 1, 2) if rank == 0 else (1, 2, 3), seed=10 * step + rank)
    pixels = (image * 58 + 114).clamp(0, 255).byte()
    return Batch(pixels, target.label.byte(), {}, [Box(0, 0, *SIZE)] * len(pixels))


def run_steps(rule: Literal["ranks", "joint"], place: distributed.World) -> dict[str, Any]:
    """Train a few steps; return what the first one read and made, and what is there at the end."""
    trainer = Trainer(PAPER, "toy", recipe_of(rule), place)
    trainer.model.train()
    memory: Any = trainer.model.head.memory  # pyright: ignore[reportAttributeAccessIssue]
    features: list[Tensor] = []
    head: Any = trainer.model.head  # pyright: ignore[reportAttributeAccessIssue]
    head.first.bottleneck.register_forward_hook(lambda _m, _i, output: features.append(output.detach().clone()))
    first = torch.empty(0)
    for step in range(STEPS):
        trainer.step([part_of(place.rank, step)])
        trainer.iteration += 1
        first = memory.rows.clone() if step == 0 else first
    weights = torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
    return {
        "features": features[0],
        "first": first,
        "rows": memory.rows.clone(),
        "seen": memory.num_batches_tracked.clone(),
        "weights": weights,
    }


def main(out: str) -> None:
    """Run both rules as one of two processes and save the results."""
    torch.set_num_threads(1)
    place = distributed.init("cpu")
    torch.save({rule: run_steps(rule, place) for rule in RULES}, out)
    distributed.barrier()
    distributed.shutdown()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes ended with, by rule."""
    return run_two("tests.memorynet.test_step_distributed", tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("rule", RULES)
def test_processes_hold_the_same_memory_and_weights_after_every_step(results: list[Any], rule: str) -> None:
    one, two = results[0][rule], results[1][rule]
    for name in ("first", "rows", "seen", "weights"):
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=0)
    assert one["seen"].tolist()[:4] == [STEPS] * 4  # a class counts where any process sees it
    assert not torch.equal(one["features"], two["features"])


def test_the_published_rule_averages_the_own_updates_of_a_step(results: list[Any]) -> None:
    empty = torch.zeros_like(results[0]["ranks"]["first"])
    own = [
        update_memory(empty, result["ranks"]["features"], part_of(rank, 0).label.long(), 0.09)
        for rank, result in enumerate(results)
    ]
    torch.testing.assert_close(results[0]["ranks"]["first"], (own[0] + own[1]) / 2)
    # seen by one of two processes: it starts at half its mean, as published
    torch.testing.assert_close(results[0]["ranks"]["first"][0], own[0][0] / 2)


def test_the_joint_rule_is_the_update_of_one_process_with_all_images(results: list[Any]) -> None:
    features = torch.cat([result["joint"]["features"] for result in results])
    label = torch.cat([part_of(rank, 0).label.long() for rank in range(2)])
    empty = torch.zeros_like(results[0]["joint"]["first"])
    torch.testing.assert_close(results[0]["joint"]["first"], update_memory(empty, features, label, 0.09))


if __name__ == "__main__":
    main(sys.argv[1])
