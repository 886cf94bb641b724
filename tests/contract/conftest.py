"""What every installed paper is tested with: its `toy` recipe on a few tiny scenes, and a run of four steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from segcore import distributed
from segcore.paper import Paper, installed_papers
from segcore.recipe import Recipe
from segcore.training.loop import train
from segcore.training.trainer import Trainer

PAPERS = installed_papers()
STEPS = 4


def small_recipe(paper: Paper, work_dir: Path) -> Recipe:
    """Return the paper's `toy` recipe for a run of seconds: tiny scenes, batches of two, four steps."""
    base = paper.recipes["toy"]
    return replace(
        base,
        data=replace(base.data, image_size=(64, 96), num_images=(6, 5), batch=2, workers=0),
        augment=replace(base.augment, scale=(96, 64), crop=(64, 64)),
        schedule=replace(base.schedule, iterations=STEPS, warmup=0),
        evaluate=replace(base.evaluate, scale=(96, 64), crop=(64, 64), stride=(43, 43)),
        run=replace(
            base.run, work_dir=str(work_dir), device="cpu", log_interval=1, eval_interval=0, save_interval=2, keep=2
        ),
    )


class Run(NamedTuple):
    """A finished run of `small_recipe`."""

    paper: Paper
    recipe: Recipe
    folder: Path


@pytest.fixture(scope="package", params=sorted(PAPERS))
def paper(request: pytest.FixtureRequest) -> Paper:
    """Every installed paper."""
    return PAPERS[request.param]


@pytest.fixture(scope="package")
def finished_run(paper: Paper, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of four steps; tests only read its folder."""
    folder = tmp_path_factory.mktemp(paper.name) / "run"
    recipe = small_recipe(paper, folder)
    result = train(paper, "toy", recipe)
    assert (result.iteration, result.exit_code) == (STEPS, 0)
    return Run(paper, recipe, folder)


@pytest.fixture
def trainer(paper: Paper, tmp_path: Path) -> Iterator[Trainer]:
    """A trainer before its first step."""
    world = distributed.World(0, 1, 0, torch.device("cpu"))
    yield Trainer(paper, "toy", small_recipe(paper, tmp_path), world)
    distributed.shutdown()
