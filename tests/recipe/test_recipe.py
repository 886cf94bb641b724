"""Recipes: round trip through JSON, checks, evaluation with augmentation."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from segcore.errors import InputError
from segcore.paper import Paper
from segcore.recipe import MS_RATIOS, Augment, Data, Evaluate, Loss, Model, Optim, Recipe, Run, Schedule
from segcore.recipe.file import read_recipe, recipe_document
from segcore.recipe.plain import from_plain, to_plain


@dataclass(frozen=True, kw_only=True)
class BandModel(Model):
    """A paper's options for these tests."""

    band: int = 11


RECIPE = Recipe(
    model=BandModel(backbone="resnet18", band=9),
    data=Data(dataset="toy", batch=4),
    augment=Augment(crop=(32, 48), flip_pairs=((14, 15), (16, 17))),
    optim=Optim(lr=1e-3, lr_mult={"head": 10.0}),
    schedule=Schedule(iterations=10),
    evaluate=Evaluate(),
)


def unused(*_: object) -> object:
    raise AssertionError("recipes are read without building anything")


PAPER = Paper(
    name="band",
    title="Band",
    model_class=BandModel,
    recipes={"toy": RECIPE},
    build=unused,  # pyright: ignore[reportArgumentType]
    name_map=unused,  # pyright: ignore[reportArgumentType]
    infer_model=unused,  # pyright: ignore[reportArgumentType]
)


def test_a_saved_recipe_reads_back_equal(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(recipe_document("band", "toy", RECIPE, {"torch": "2"}))
    assert read_recipe(PAPER, str(tmp_path)) == ("toy", RECIPE)
    assert read_recipe(PAPER, str(tmp_path / "recipe.json")) == ("toy", RECIPE)


def test_a_name_that_is_no_file_is_left_to_the_caller(tmp_path: Path) -> None:
    assert read_recipe(PAPER, str(tmp_path / "absent")) is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.update(paper="other"), "is a recipe of other, not of band"),
        (lambda d: d["recipe"]["optim"].update(lrr=1), "optim: unknown entries lrr"),
        (lambda d: d["recipe"]["optim"].update(kind="lion"), r"optim.kind: expected one of adamw, sgd, got 'lion'"),
        (lambda d: d["recipe"]["optim"].update(lr_mult=[1]), r"optim.lr_mult: expected a table"),
        (lambda d: d["recipe"]["optim"].update(lr_mult={"head": "x"}), r"optim.lr_mult.head: expected float, got 'x'"),
        (lambda d: d["recipe"]["augment"].update(crop=[1, 2, 3]), r"augment.crop: expected 2 values"),
        (lambda d: d["recipe"]["run"].update(resume="no"), r"run.resume: expected bool, got 'no'"),
        (lambda d: d["recipe"]["model"].update(band=True), r"model.band: expected int, got True"),
        (lambda d: d["recipe"]["optim"].update(lr=-1), "--optim.lr must be positive"),
        (lambda d: d["recipe"].pop("schedule"), "schedule"),
        (lambda d: d.pop("recipe"), "expected the entries paper, name and recipe"),
    ],
)
def test_a_damaged_recipe_file_says_what_is_wrong(tmp_path: Path, change: object, sentence: str) -> None:
    content = json.loads(recipe_document("band", "toy", RECIPE, {}))
    change(content)  # pyright: ignore[reportCallIssue]
    (tmp_path / "recipe.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=sentence):
        read_recipe(PAPER, str(tmp_path / "recipe.json"))


def test_a_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("{")
    with pytest.raises(InputError, match=r"notes\.json is not a recipe"):
        read_recipe(PAPER, str(tmp_path / "notes.json"))


def test_plain_data_of_nested_tuples_becomes_tuples_again() -> None:
    plain = json.loads(json.dumps(to_plain(RECIPE.augment)))
    assert from_plain(Augment, plain) == RECIPE.augment


def test_aug_test_sets_the_six_ratios_and_the_flip() -> None:
    protocol = Evaluate().with_augmentation()
    assert (protocol.ratios, protocol.flip) == (MS_RATIOS, True)
    assert replace(protocol, ratios=(1.0,), flip=False) == Evaluate()


@pytest.mark.parametrize(
    ("build", "option"),
    [
        (lambda: Optim(lr=0.0), "--optim.lr"),
        (lambda: Data(dataset="toy", batch=0), "--data.batch"),
        (lambda: Data(dataset="toy", workers=1_000_000), "--data.workers"),
        (lambda: Evaluate(ratios=()), "--evaluate.ratios"),
        (lambda: Evaluate(mode="slide", crop=(8, 8), stride=(9, 9)), "--evaluate.stride"),
        (lambda: Augment(ratio=(2.0, 0.5)), "--augment.ratio"),
        (lambda: Augment(scale=(0, 0)), "--augment.scale"),
        (lambda: Augment(flip=7), "--augment.flip"),
        (lambda: Optim(lr=1.0, betas=(0.9, 1.5)), "--optim.betas"),
        (lambda: Optim(lr=1.0, eps=-1.0), "--optim.eps"),
        (lambda: Optim(lr=1.0, momentum=-1.0), "--optim.momentum"),
        (lambda: Optim(lr=1.0, clip_norm=-1.0), "--optim.clip-norm"),
        (lambda: Optim(lr=1.0, weight_decay=-1.0), "--optim.weight-decay"),
        (lambda: Loss(ohem_min_kept=-1), "--loss.ohem-min-kept"),
        (lambda: Evaluate(pad_divisor=-3), "--evaluate.pad-divisor"),
        (lambda: Evaluate(resize_divisor=-3), "--evaluate.resize-divisor"),
        (lambda: Evaluate(window_batch=0), "--evaluate.window-batch"),
        (lambda: Evaluate(scale=(0, 0)), "--evaluate.scale"),
        (lambda: Run(seed=-1), "--run.seed"),
        (lambda: Run(eval_images=-3), "--run.eval-images"),
        (lambda: Schedule(iterations=5, epochs=-1), "--schedule.epochs"),
        (lambda: Schedule(iterations=5, warmup=-1), "--schedule.warmup"),
        (lambda: Schedule(iterations=5, warmup_ratio=1.5), "--schedule.warmup-ratio"),
        (lambda: Schedule(iterations=5, warmup_kind="exp", warmup_ratio=0.0), "--schedule.warmup-kind exp"),
        (lambda: Schedule(iterations=0), "--schedule.iterations"),
        (lambda: Schedule(iterations=5, kind="step"), "--schedule.step"),
    ],
)
def test_an_impossible_value_names_its_option(build: object, option: str) -> None:
    with pytest.raises(InputError, match=option):
        build()  # pyright: ignore[reportCallIssue]
