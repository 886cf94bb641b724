"""The training loop: precision, accumulation, clipping, averages, processes, what a run leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segcore import distributed
from segcore.commands.test import TestOptions
from segcore.commands.test import test as run_test
from segcore.data.toy.dataset import ToyScenes
from segcore.errors import InputError
from segcore.images.region import Box
from segcore.recipe import Recipe
from segcore.recipe.file import read_recipe
from segcore.segmentor import Losses, StepInfo, Target
from segcore.training.batches import Batch
from segcore.training.log import RunLogger
from segcore.training.loop import train
from segcore.training.trainer import Trainer, TrainStep, total_iterations
from segcore.weights.files import read_checkpoint
from segcore.weights.states import load_state
from tests.tiny_paper import PAPER, TinySegmentor


def recipe(folder: Path, *, run: dict[str, Any] | None = None, **optim: Any) -> Recipe:
    """Return the tiny recipe with a work directory and other options."""
    base = PAPER.recipes["toy"]
    settings = {"work_dir": str(folder), "device": "cpu", "log_interval": 1, "save_interval": 1, "keep": 9}
    return replace(
        base,
        data=replace(base.data, batch=4),
        optim=replace(base.optim, **optim),
        run=replace(base.run, **{**settings, **(run or {})}),
    )


def batch(size: int = 4, side: int = 32) -> Batch:
    rng = np.random.default_rng(3)
    pixels = torch.from_numpy(rng.integers(0, 256, (size, 3, side, side), np.uint8))
    label = torch.from_numpy(rng.integers(0, 8, (size, side, side), np.uint8))
    return Batch(pixels, label, {}, [Box(0, 0, side, side)] * size)


@pytest.fixture
def world() -> distributed.World:
    return distributed.World(0, 1, 0, torch.device("cpu"))


def gradient_step(trainer: Trainer, parts: list[Batch]) -> dict[str, Tensor]:
    """Run one step with norms in evaluation mode (their statistics depend on the parts); return the weights."""
    trainer.model.eval()
    trainer.step(parts)
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def test_accumulated_parts_step_like_the_whole_batch(tmp_path: Path, world: distributed.World) -> None:
    pixels, label, maps, boxes = batch()
    halves = [Batch(pixels[i : i + 2], label[i : i + 2], maps, boxes[i : i + 2]) for i in (0, 2)]
    whole = gradient_step(Trainer(PAPER, "toy", recipe(tmp_path, kind="sgd"), world), [batch()])
    parts = gradient_step(Trainer(PAPER, "toy", recipe(tmp_path, kind="sgd", accumulate=2), world), halves)
    start = Trainer(PAPER, "toy", recipe(tmp_path), world).model.state_dict()
    assert not torch.equal(start["classifier.weight"], whole["classifier.weight"])
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-5, atol=1e-7)


def test_clipping_bounds_the_step(tmp_path: Path, world: distributed.World) -> None:
    settings = {"kind": "sgd", "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    start = Trainer(PAPER, "toy", recipe(tmp_path), world).model.state_dict()
    lengths = []
    for clip in (0.0, 0.01):
        after = gradient_step(Trainer(PAPER, "toy", recipe(tmp_path, clip_norm=clip, **settings), world), [batch()])
        moved = [(after[name] - start[name]).flatten() for name in start if start[name].is_floating_point()]
        lengths.append(float(torch.cat(moved).norm()))
    assert lengths[0] > 0.02
    assert lengths[1] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_every_precision_learns_one_batch(tmp_path: Path, world: distributed.World, amp: str) -> None:
    trainer = Trainer(PAPER, "toy", recipe(tmp_path, run={"amp": amp}, lr=0.05), world)
    losses = [float(trainer.step([batch()])["loss"]) for _ in range(8)]
    assert losses[-1] < losses[0] - 0.02
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}


class _OddNames(TinySegmentor):
    """A network whose terms and logged values are not to be told from their names."""

    def losses(self, image: Tensor, target: Target, step: StepInfo) -> Losses:
        logits = F.interpolate(self(image), size=target.label.shape[-2:])
        return Losses(
            {"margin": logits.mean(), "decode.ce": logits.square().mean()}, {"share_without_loss": logits.max()}
        )


def test_terms_are_summed_whatever_their_names_and_logged_values_are_not() -> None:
    model = _OddNames(4, 8)
    image, target = batch().to("cpu")
    expected = model.eval().losses(image, target, StepInfo(0, 1, 0.1))
    step = TrainStep(model)(image, target, StepInfo(0, 1, 0.1))
    assert step.keys() == {"margin", "decode.ce", "share_without_loss", "loss"}
    torch.testing.assert_close(step["loss"], expected.terms["margin"] + expected.terms["decode.ce"])


def test_one_value_for_a_batch_norm_is_one_sentence(tmp_path: Path, world: distributed.World) -> None:
    trainer = Trainer(PAPER, "toy", recipe(tmp_path), world)
    with pytest.raises(InputError, match=r"one value per channel.*raise --data\.batch or --augment\.crop"):
        trainer.step([batch(1, side=1)])


def test_other_errors_of_a_step_stay_as_they_are(tmp_path: Path, world: distributed.World) -> None:
    trainer = Trainer(PAPER, "toy", recipe(tmp_path), world)
    with pytest.raises(ValueError, match="batch_size") as raised:
        trainer.step([batch()._replace(label=batch(2).label)])
    assert not isinstance(raised.value, InputError)


def test_the_average_is_evaluated_and_saved(tmp_path: Path) -> None:
    train(PAPER, "toy", recipe(tmp_path, ema=0.5, lr=0.1))
    state = load_state(tmp_path / "state-00000002.pt")
    saved = read_checkpoint(tmp_path / "last.safetensors").tensors
    assert torch.equal(saved["classifier.weight"], state["average"]["classifier.weight"])
    assert not torch.equal(saved["classifier.weight"], state["model"]["classifier.weight"])


def test_a_run_leaves_recipe_weights_states_and_logs(tmp_path: Path) -> None:
    settings = recipe(tmp_path, run={"eval_interval": 1})
    result = train(PAPER, "toy", settings)
    assert read_recipe(PAPER, str(tmp_path)) == ("toy", settings)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"best.safetensors", "last.safetensors", "state-00000002.pt", "log.txt", "tensorboard"} <= names
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["mode"], line["iteration"]) for line in lines] == [("train", 1), ("val", 1), ("train", 2), ("val", 2)]
    meta = read_checkpoint(tmp_path / "last.safetensors").meta
    assert meta is not None
    assert result.scores is not None
    assert meta.iteration == 2
    assert meta.scores["mIoU"] == pytest.approx(result.scores.miou, abs=1e-4)


@pytest.mark.parametrize(("eval_images", "expected"), [(0, [0, 2, 4, 6]), (5, [0, 1, 3, 4])])
def test_four_overlays_are_logged_spread_over_the_images_that_are_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eval_images: int, expected: list[int]
) -> None:
    logged: list[tuple[int, str]] = []
    monkeypatch.setattr(RunLogger, "image", lambda self, name, picture, iteration: logged.append((iteration, name)))
    settings = recipe(tmp_path, run={"eval_interval": 1, "eval_images": eval_images})
    settings = replace(settings, data=replace(settings.data, num_images=(4, 7)))
    train(PAPER, "toy", settings)
    first = [name for iteration, name in logged if iteration == 1]
    names = [ToyScenes("val", 7, settings.data.image_size)[i].name for i in expected]
    assert first == [f"val/{name}" for name in names]


@pytest.mark.parametrize("part", ["augment", "evaluate"])
def test_flip_pairs_of_absent_classes_are_refused_before_training(
    tmp_path: Path, world: distributed.World, part: str
) -> None:
    settings = recipe(tmp_path)
    changed = replace(getattr(settings, part), flip_pairs=((14, 15),))
    with pytest.raises(InputError, match=rf"^--{part}\.flip-pairs names class 14; there are 0 to 7$"):
        Trainer(PAPER, "toy", replace(settings, **{part: changed}), world)


def test_old_states_are_removed_but_for_the_last_ones(tmp_path: Path) -> None:
    settings = recipe(tmp_path, run={"keep": 2})
    train(PAPER, "toy", replace(settings, schedule=replace(settings.schedule, iterations=4)))
    assert sorted(path.name for path in tmp_path.glob("state-*")) == ["state-00000003.pt", "state-00000004.pt"]


def test_epochs_count_complete_batches() -> None:
    base = PAPER.recipes["toy"]
    by_epochs = replace(base, schedule=replace(base.schedule, epochs=3), data=replace(base.data, batch=4))
    assert total_iterations(by_epochs, 11) == 6
    assert total_iterations(by_epochs, 3) == 3
    assert total_iterations(base, 11) == base.schedule.iterations


def test_a_warmup_that_outlasts_the_run_is_said(
    tmp_path: Path, world: distributed.World, caplog: pytest.LogCaptureFixture
) -> None:
    settings = recipe(tmp_path)
    for warmup, said in ((2, []), (3, ["--schedule.warmup 3 outlasts the 2 iterations"])):
        caplog.clear()
        Trainer(PAPER, "toy", replace(settings, schedule=replace(settings.schedule, warmup=warmup)), world)
        assert [record.getMessage().partition(":")[0] for record in caplog.records] == said


def test_every_metric_that_is_asked_for_is_printed_with_miou_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = recipe(tmp_path)
    train(PAPER, "toy", settings)
    options = TestOptions(checkpoint=str(tmp_path / "last.safetensors"), eval=("mDice", "mFscore"))
    scores = run_test(PAPER, "toy", settings, options)
    assert scores is not None
    last = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split()[0] for line in last] == ["mDice", "mFscore", "mIoU"]
    assert float(last[2].split()[1]) == pytest.approx(100 * scores.miou, abs=0.005)
    (file,) = tmp_path.glob("last.val.single-scale.*.json")
    assert np.isclose(json.loads(file.read_text())["metric"]["mDice"], scores.mdice, atol=1e-4)


@pytest.mark.slow
def test_a_compiled_run_ends_like_an_eager_one(tmp_path: Path) -> None:
    weights = []
    for is_compiled in (False, True):
        folder = tmp_path / str(is_compiled)
        settings = recipe(folder, run={"compile": is_compiled}, kind="sgd")  # Adam amplifies rounding of zero gradients
        train(PAPER, "toy", replace(settings, schedule=replace(settings.schedule, iterations=4)))
        weights.append(read_checkpoint(folder / "last.safetensors").tensors)
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-4)
