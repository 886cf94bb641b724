"""Recipes: found and saved as files, evaluation with augmentation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import pytest

from segcore.errors import InputError
from segcore.paper import Paper
from segcore.recipe import MS_RATIOS, Augment, Data, Evaluate, Model, Optim, Recipe, Schedule
from segcore.recipe.file import read_recipe, recipe_document
from segcore.recipe.ranges import AT_LEAST_1


@dataclass(frozen=True, kw_only=True)
class BandModel(Model):
    """A paper's options for these tests."""

    band: Annotated[int, AT_LEAST_1] = 11


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


def test_a_recipe_of_another_paper_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(recipe_document("other", "toy", RECIPE, {}))
    with pytest.raises(InputError, match=r"recipe\.json is a recipe of other, not of band"):
        read_recipe(PAPER, str(tmp_path / "recipe.json"))


def test_aug_test_sets_the_six_ratios_and_the_flip() -> None:
    protocol = Evaluate().with_augmentation()
    assert (protocol.ratios, protocol.flip) == (MS_RATIOS, True)
    assert replace(protocol, ratios=(1.0,), flip=False) == Evaluate()
