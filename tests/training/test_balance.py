"""Class weights and sampling by the pixels of each class, a frozen backbone, early stopping."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segcore import distributed
from segcore.data.class_pixels import balanced_weights, count_pixels, rare_chances
from segcore.errors import InputError
from segcore.evaluation.metrics import ConfusionMatrix, Scores
from segcore.losses import SegmentationLoss
from segcore.paper import load_paper
from segcore.recipe import Loss
from segcore.recipe.file import read_recipe
from segcore.training import loop
from segcore.training.batches import RarePlan
from segcore.training.loop import train
from segcore.training.trainer import Trainer
from tests.contract.conftest import small_recipe
from tests.tiny_paper import PAPER
from tests.training.test_loop import recipe

COUNTS = np.array([[90, 0, 0], [80, 9, 0], [20, 1, 0]])


@pytest.fixture
def world() -> Iterator[distributed.World]:
    yield distributed.World(0, 1, 0, torch.device("cpu"))
    distributed.shutdown()


def test_weights_are_those_of_enet_with_a_mean_of_one_over_the_pixels() -> None:
    shares = np.array([0.95, 0.05, 0.0])
    raw = 1 / np.log(1.02 + shares)
    np.testing.assert_allclose(balanced_weights(COUNTS), raw / (raw * shares).sum(), atol=1e-4)
    assert balanced_weights(np.zeros((2, 2), int))[0] == pytest.approx(50.4983, abs=1e-3)


def test_automatic_weights_are_saved_as_numbers_and_resume_with_the_word(tmp_path: Path) -> None:
    base = recipe(tmp_path / "run")
    base = replace(base, loss=Loss(class_weight="auto"))
    train(PAPER, "toy", replace(base, schedule=replace(base.schedule, iterations=2)))
    saved = read_recipe(PAPER, str(tmp_path / "run"))
    assert saved is not None
    trainer = Trainer(PAPER, "toy", base, distributed.World(0, 1, 0, torch.device("cpu")))
    assert saved[1].loss.class_weight == balanced_weights(count_pixels(trainer.train_data))
    assert train(PAPER, "toy", replace(base, run=replace(base.run, resume=True))).iteration == 2
    with pytest.raises(InputError, match="auto is counted when a training starts"):
        SegmentationLoss(Loss(class_weight="auto"))


def test_rare_classes_are_drawn_for_by_their_shares() -> None:
    chances = rare_chances(COUNTS, temperature=0.5)
    raw = np.exp((1 - np.array([0.95, 0.05])) / 0.5)
    np.testing.assert_allclose(chances, [*raw / raw.sum(), 0])
    assert rare_chances(COUNTS, temperature=1e-4).tolist() == [0, 1, 0]  # no overflow


def test_a_batch_for_rare_classes_depends_on_seed_and_iteration_alone() -> None:
    showing = [np.flatnonzero(column) for column in COUNTS.T]
    plan = RarePlan(3, 2, 5, rare_chances(COUNTS, 0.01), showing)
    drawn = [plan.images(i) for i in range(200)]
    assert drawn == [RarePlan(3, 2, 5, rare_chances(COUNTS, 0.01), showing).images(i) for i in range(200)]
    assert {image for batch in drawn for image in batch} == {1, 2}  # image 0 lacks the rare class
    assert drawn != [RarePlan(3, 2, 6, rare_chances(COUNTS, 0.01), showing).images(i) for i in range(200)]
    assert plan.epoch(1) == 2


def test_the_trainer_draws_for_rare_classes_where_asked(tmp_path: Path, world: distributed.World) -> None:
    base = recipe(tmp_path)
    assert not isinstance(Trainer(PAPER, "toy", base, world).plan, RarePlan)
    assert isinstance(
        Trainer(PAPER, "toy", replace(base, data=replace(base.data, rare_temperature=0.01)), world).plan, RarePlan
    )


def test_a_frozen_backbone_keeps_weights_and_statistics(tmp_path: Path, world: distributed.World) -> None:
    paper = load_paper("cgrseg")
    base = small_recipe(paper, tmp_path / "start")
    with pytest.raises(InputError, match=r"would keep random weights; add --model\.pretrained true"):
        Trainer(paper, "toy", replace(base, model=replace(base.model, freeze="backbone")), world)
    train(paper, "toy", replace(base, schedule=replace(base.schedule, iterations=1)))
    run = replace(base.run, work_dir=str(tmp_path / "run"), load_from=str(tmp_path / "start" / "last.safetensors"))
    trainer = Trainer(paper, "toy", replace(base, model=replace(base.model, freeze="backbone"), run=run), world)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.step([next(trainer.batches())])
    after = trainer.model.state_dict()
    changed = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"head"}
    assert len({name.split(".")[0] for name in after}) > 1


def constant(calls: list[int]) -> Any:
    def evaluate(*_: object, **__: object) -> Scores:
        calls.append(1)
        matrix = ConfusionMatrix(8)
        matrix.update(torch.zeros(4, 4, dtype=torch.uint8), torch.zeros(4, 4, dtype=torch.uint8))
        return matrix.scores()

    return evaluate


def test_a_run_stops_after_validations_without_a_better_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(loop, "evaluate", constant(calls))
    base = recipe(tmp_path / "run", run={"eval_interval": 1, "patience": 2})
    base = replace(base, schedule=replace(base.schedule, iterations=9))
    result = train(PAPER, "toy", base)
    assert (result.iteration, result.exit_code, len(calls)) == (3, 0, 3)  # the best, and two that are not better
    assert "stopped after iteration 3 of 9" in (tmp_path / "run" / "log.txt").read_text()
    again = train(PAPER, "toy", replace(base, run=replace(base.run, resume=True)))
    assert (again.iteration, len(calls)) == (3, 3)
    longer = replace(base, run=replace(base.run, resume=True, patience=4))
    assert train(PAPER, "toy", longer).iteration == 5
