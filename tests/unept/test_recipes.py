"""UN-EPT's recipes: every row of the results table, with its published size and training settings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from segcore.evaluation.inference import _starts
from segcore.images.transforms import resize_bounds, resized_size
from segcore.layers.count import count
from segcore.recipe import MS_RATIOS, Recipe
from segcore.recipe.file import recipe_from_plain
from segcore.recipe.plain import from_plain, to_plain
from segcore.training.optim import learning_rate, parameter_groups
from unept.model import UNEPT
from unept.names import name_map
from unept.recipes import PAPER, RECIPES, UNEPTModel

PUBLISHED = ("r50-ade20k", "deit-ade20k", "deit-pascal-context-60")


def _network(recipe: Recipe, num_classes: int) -> UNEPT:
    assert isinstance(recipe.model, UNEPTModel)
    with torch.device("meta"):
        return UNEPT(replace(recipe.model, pretrained=False), num_classes)


@pytest.mark.parametrize(
    ("name", "num_classes", "params"),
    [
        ("r50-ade20k", 150, 32_357_942),
        ("deit-ade20k", 150, 94_842_326),
        ("deit-pascal-context-60", 60, 94_842_326 - 23_130),
    ],
)
def test_parameters_are_the_published_ones(name: str, num_classes: int, params: int) -> None:
    recipe = RECIPES[name]
    count = sum(p.numel() for p in _network(recipe, num_classes).parameters())
    assert count == params
    assert round(count / 1e6, 1) == recipe.published.params


@pytest.mark.parametrize(("name", "gflop"), [("r50-ade20k", 280.3), ("deit-ade20k", 231.7)])
def test_multiply_adds_are_those_of_the_specification_but_for_what_a_test_leaves_out(name: str, gflop: float) -> None:
    heads = 2 * 256 * 256 + (2 + 8) * 256  # per query: boundary and direction head
    attention = 2 * (2 * 256 * 256 + 256 * 256)  # two layers: queries and keys, one of two chained projections
    folding = 2 * (256**3 + 256 * 256)  # two layers: the product of both projections
    counted = count(_network(RECIPES[name], 150), (480, 480)).macs_torch
    published_way = counted - folding + 3600 * (heads + attention)
    assert 2 * published_way / 1e9 == pytest.approx(gflop, abs=0.06)


def test_every_row_of_the_results_table_is_a_recipe() -> None:
    multi = {name: recipe.published.miou_ms for name, recipe in RECIPES.items() if recipe.published.miou_ms is not None}
    assert multi == {"r50-ade20k": 46.1, "deit-ade20k": 50.5, "deit-pascal-context-60": 55.2}
    assert {"toy", "camvid"} <= RECIPES.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_train_and_test_as_published(name: str) -> None:
    recipe = RECIPES[name]
    optim, schedule, test = recipe.optim, recipe.schedule, recipe.evaluate
    assert (optim.kind, optim.lr, optim.weight_decay, optim.betas, optim.clip_norm) == (
        "adamw",
        1e-4,
        1e-4,
        (0.9, 0.999),
        0,
    )
    assert (recipe.data.batch, schedule.iterations, schedule.warmup) == (16, 160_000, 0)
    rates = [learning_rate(schedule, 160_000, optim.lr, 1.0, i) for i in (0, 125_999, 126_000, 159_999)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5])
    assert (recipe.augment.crop, recipe.augment.cat_max_ratio) == ((480, 480), 0.75)
    assert (test.mode, test.crop, test.stride, test.pad_window) == ("slide", (480, 480), (160, 160), True)
    augmented = test.with_augmentation()
    assert (augmented.mode, augmented.ratios, augmented.flip) == ("slide", MS_RATIOS, True)
    assert recipe.model.pretrained
    assert recipe.loss.average == "all"


def test_every_parameter_decays_and_the_backbone_learns_ten_times_slower() -> None:
    recipe = RECIPES["r50-ade20k"]
    model = _network(recipe, 150)
    groups = parameter_groups(model, name_map(model), recipe.optim)
    assert [(group["lr_mult"], group["weight_decay"]) for group in groups] == [(0.1, 1e-4), (1.0, 1e-4)]
    backbone = {id(p) for p in model.backbone.parameters()}
    assert {id(p) for p in groups[0]["params"]} == backbone
    assert len(groups[1]["params"]) + len(backbone) == len(list(model.parameters()))


def test_an_image_of_512x683_has_the_published_number_of_windows() -> None:
    protocol = RECIPES["r50-ade20k"].evaluate.with_augmentation()
    counts = []
    for ratio in protocol.ratios:
        height, width = resized_size((512, 683), resize_bounds(protocol.scale, ratio), keep_ratio=True, family="M")
        counts.append(len(_starts(height, 480, 160)) * len(_starts(width, 480, 160)))
    assert counts == [1, 2, 6, 8, 15, 24]


@pytest.mark.parametrize("name", RECIPES)
def test_a_saved_recipe_reads_back_equal(name: str) -> None:
    plain = to_plain(RECIPES[name])
    assert recipe_from_plain(PAPER, plain, "test") == RECIPES[name]
    assert from_plain(UNEPTModel, plain["model"]) == RECIPES[name].model


@pytest.mark.parametrize("name", ["toy", "camvid"])
def test_the_small_recipes_start_from_scratch_and_run_their_window(name: str) -> None:
    recipe = RECIPES[name]
    assert not recipe.model.pretrained
    assert recipe.model.backbone_norm == "batch"
    model = PAPER.build(recipe, 8).eval()
    assert recipe.augment.crop == recipe.evaluate.crop
    height, width = recipe.evaluate.crop
    with torch.no_grad():
        assert model(torch.zeros(1, 3, height, width)).shape == (1, 8, height // 8, width // 8)
