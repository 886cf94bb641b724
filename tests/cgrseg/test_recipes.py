"""CGRSeg's recipes: every row of the results tables, with its published cost and training settings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cgrseg.model import CGRSeg
from cgrseg.recipes import PAPER, RECIPES, CGRSegModel
from segcore.layers.count import count
from segcore.recipe import Recipe
from segcore.recipe.file import recipe_from_plain
from segcore.recipe.plain import from_plain, to_plain


@pytest.mark.parametrize(
    ("name", "params", "gmacs"),
    [
        ("t-ade20k", 9_364_647, 3.997),
        ("b-ade20k", 19_114_871, 7.674),
        ("b5-ade20k", 18_109_975, 7.609),
        ("l-ade20k", 35_677_703, 14.911),
    ],
)
def test_parameters_and_multiply_adds_are_the_published_ones(name: str, params: int, gmacs: float) -> None:
    options, published = RECIPES[name].model, RECIPES[name].published
    assert isinstance(options, CGRSegModel)
    with torch.device("meta"):
        model = CGRSeg(replace(options, pretrained=False), num_classes=150)
    result = count(model, (512, 512))
    assert result.params == params
    assert round(result.macs_mmcv / 1e9, 3) == gmacs
    assert round(result.params / 1e6, 1) == published.params
    assert round(result.macs_mmcv / 1e9, 1) == published.gmacs


def test_every_row_of_the_results_tables_is_a_recipe() -> None:
    single = {name: r.published.miou for name, r in RECIPES.items() if r.published.miou is not None}
    multi = {name: r.published.miou_ms for name, r in RECIPES.items() if r.published.miou_ms is not None}
    assert single == {
        "t-ade20k": 43.6,
        "b-ade20k": 45.5,
        "b5-ade20k": 45.5,
        "l-ade20k": 48.3,
        "t-coco-stuff-10k": 42.2,
        "b-coco-stuff-10k": 43.5,
        "l-coco-stuff-10k": 46.0,
    }
    assert multi == {"t-pascal-context-59": 54.1, "b-pascal-context-59": 56.5, "l-pascal-context-59": 58.5}
    assert {"toy", "camvid", "s0-ade20k"} <= RECIPES.keys()


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ("toy", "camvid", "own")])
def test_published_recipes_train_as_published(name: str) -> None:
    recipe = RECIPES[name]
    iterations = 160_000 if name.endswith("ade20k") else 80_000
    crop = (480, 480) if "pascal" in name else (512, 512)
    assert (recipe.optim.kind, recipe.optim.lr, recipe.optim.weight_decay) == ("adamw", 1.2e-4, 0.01)
    assert (recipe.optim.betas, recipe.optim.eps) == ((0.9, 0.999), 1e-8)
    assert (recipe.data.batch, recipe.schedule.iterations, recipe.schedule.warmup) == (16, iterations, 1500)
    assert (recipe.augment.crop, recipe.augment.cat_max_ratio) == (crop, 0.75)
    assert recipe.loss.average == "all"
    assert recipe.model.pretrained
    assert recipe.evaluate.mode == "whole"
    assert (recipe.evaluate.pad_divisor, recipe.evaluate.resize_divisor) == ((0, 32) if "pascal" in name else (32, 0))


@pytest.mark.parametrize("name", RECIPES)
def test_a_saved_recipe_reads_back_equal(name: str) -> None:
    plain = to_plain(RECIPES[name])
    assert recipe_from_plain(PAPER, plain, "test") == RECIPES[name]
    assert from_plain(CGRSegModel, plain["model"]) == RECIPES[name].model


@pytest.mark.parametrize("name", ["toy", "camvid"])
def test_the_small_recipes_start_from_scratch_and_build(name: str) -> None:
    recipe: Recipe = RECIPES[name]
    assert not recipe.model.pretrained
    assert recipe.model.backbone_norm == "batch"  # frozen statistics of 0 and 1 would not train
    model = PAPER.build(recipe, 8).eval()
    height, width = recipe.augment.crop
    assert height % 32 == 0
    assert width % 32 == 0
    with torch.no_grad():
        assert model(torch.zeros(1, 3, height, width)).shape == (1, 8, height // 8, width // 8)
