"""IIWA's recipes: all thirteen released configurations, with their published figures and training settings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from iiwa.model import IIWA
from iiwa.names import name_map
from iiwa.recipes import PAPER, RECIPES, IIWAModel
from segcore.layers.count import count
from segcore.recipe.file import recipe_from_plain
from segcore.recipe.plain import from_plain, to_plain
from segcore.training.optim import parameter_groups

PUBLISHED = [name for name in RECIPES if name not in ("toy", "camvid", "own")]

# crop, batch, iterations, backbone lr, warmup, ratio, power, key window of the fusions, decoder window, dropout, drop
# path, mode, stride
TABLE = {
    "s-ade20k": (512, 16, 160, 1, 1500, 1e-7, 0.95, (4, 4), (8, 8), 0, 0.2, "slide", 384),
    "b-ade20k": (512, 16, 160, 0.3, 1500, 1e-7, 0.95, (4, 4), (8, 8), 0, 0.2, "slide", 384),
    "b-ade20k-576": (576, 16, 160, 0.2, 1500, 1e-7, 0.96, (6, 6), (6, 6), 0, 0.2, "slide", 384),
    "l-ade20k": (512, 8, 160, 0.2, 1500, 1e-6, 0.95, (4, 4), (8, 8), 0, 0.3, "whole", None),
    "l-ade20k-576": (576, 8, 160, 0.2, 1500, 1e-7, 0.96, (6, 6), (6, 6), 0, 0.3, "slide", 384),
    "s-cityscapes-coarse": ((512, 1024), 16, 80, 1, 1500, 1e-6, 0.96, (4, 8), (4, 8), 0.1, 0.2, "whole", None),
    "s-cityscapes": ((512, 1024), 16, 80, 1, 1000, 1e-6, 0.96, (4, 8), (4, 8), 0, 0.2, "slide", (256, 512)),
    "s-cityscapes-test": ((512, 1024), 16, 80, 1, 1000, 1e-6, 0.96, (4, 8), (4, 8), 0, 0.2, "slide", (256, 512)),
    "b-cityscapes-coarse": ((512, 1024), 16, 80, 0.2, 1000, 1e-6, 0.96, (4, 8), (4, 8), 0, 0.2, "slide", (256, 512)),
    "b-cityscapes": ((512, 1024), 16, 80, 0.2, 1000, 1e-6, 0.96, (4, 8), (4, 8), 0.1, 0.2, "slide", (256, 512)),
    "b-cityscapes-test": ((512, 1024), 16, 80, 0.2, 1000, 1e-6, 0.96, (4, 8), (4, 8), 0, 0.2, "slide", (256, 512)),
    "s-pascal-context-59": (480, 32, 40, 1, 750, 1e-6, 0.96, (4, 4), (6, 6), 0.1, 0.2, "slide", 320),
    "b-pascal-context-59": (480, 24, 40, 0.2, 750, 1e-6, 0.96, (4, 4), (6, 6), 0, 0.2, "slide", 320),
}


def _model(name: str, num_classes: int = 150) -> IIWA:
    options = RECIPES[name].model
    assert isinstance(options, IIWAModel)
    with torch.device("meta"):
        return IIWA(replace(options, pretrained=False), num_classes)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_released_configuration_trains_and_tests_as_released(name: str) -> None:
    crop, batch, iterations, lr, warmup, ratio, power, fusion, window, dropout, drop_path, mode, stride = TABLE[name]
    recipe = RECIPES[name]
    model, optim, schedule = recipe.model, recipe.optim, recipe.schedule
    assert isinstance(model, IIWAModel)
    assert (recipe.augment.crop, recipe.data.batch) == (_pair(crop), batch)
    assert (schedule.iterations, schedule.warmup, schedule.warmup_ratio) == (1000 * iterations, warmup, ratio)
    assert (schedule.kind, schedule.power, schedule.min_lr) == ("poly", power, 0)
    assert (optim.kind, optim.lr, optim.weight_decay, optim.betas) == ("adamw", 6e-5, 0.01, (0.9, 0.999))
    assert optim.lr_mult == ({} if lr == 1 else {"backbone": lr})
    assert optim.decay_mult == {"norm": 0, "absolute_pos_embed": 0, "relative_position_bias_table": 0}
    assert (model.fusion_window, model.decoder_window, model.fusion) == (fusion, window, "2")
    assert (model.decoder_dropout, model.decoder_drop_path, model.backbone_drop_path) == (dropout, drop_path, 0.3)
    assert (recipe.loss.ohem, recipe.loss.ohem_threshold, recipe.loss.ohem_min_kept) == (True, 0.7, 100_000)
    assert (len(recipe.loss.class_weight), recipe.loss.auxiliary) == (19 if "cityscapes" in name else 0, 0.4)
    assert recipe.evaluate.mode == mode
    if stride is not None:
        assert (recipe.evaluate.crop, recipe.evaluate.stride) == (_pair(crop), _pair(stride))
    assert recipe.run.eval_interval == (8000 if "pascal" in name else 100 * iterations)
    assert recipe.augment.scale == {"ade20k": (2048, _pair(crop)[0]), "cityscapes": (2048, 1024)}.get(
        recipe.data.dataset, (520, 520)
    )


def test_published_figures_are_those_of_the_paper_and_its_readme() -> None:
    single = {name: r.published.miou for name, r in RECIPES.items() if r.published.miou is not None}
    multi = {name: r.published.miou_ms for name, r in RECIPES.items() if r.published.miou_ms is not None}
    assert single == {
        "s-ade20k": 48.30,
        "b-ade20k": 51.85,
        "l-ade20k": 53.20,
        "s-pascal-context-59": 55.8,
        "b-pascal-context-59": 62.9,
    }
    assert multi == {"s-cityscapes": 83.1, "s-cityscapes-test": 82.5, "b-cityscapes": 84.0, "b-cityscapes-test": 83.2}
    assert RECIPES.keys() == {*TABLE, "toy", "camvid", "own"}


def test_the_first_stage_of_cityscapes_joins_coarse_and_fine_images() -> None:
    for size in "sb":
        assert RECIPES[f"{size}-cityscapes-coarse"].data.train_split == "train_extra+train"
        assert RECIPES[f"{size}-cityscapes"].data.train_split == "train"
        assert RECIPES[f"{size}-cityscapes-test"].data.train_split == "trainval"
        assert RECIPES[f"{size}-cityscapes-test"].data.test_split == "test"


@pytest.mark.parametrize(
    ("name", "millions", "gmacs"),
    [
        ("s-ade20k", (48.84, 2.92, 9.34), (219, 8.0, 33.7)),
        ("b-ade20k", (86.88, 5.18, 7.14), (409, 14.1, 26.1)),
        ("l-ade20k", (195.20, 11.64, 15.99), (905, 31.5, 57.6)),
    ],
)
def test_parameters_and_multiply_adds_are_those_of_the_specification(
    name: str, millions: tuple[float, ...], gmacs: tuple[float, ...]
) -> None:
    model = _model(name)
    parts = (model.backbone, model.head.neck, model.head.decoder)
    assert tuple(round(sum(p.numel() for p in part.parameters()) / 1e6, 2) for part in parts) == millions
    assert count(model, (512, 512)).macs_torch / 1e9 == pytest.approx(sum(gmacs), rel=0.03)


@pytest.mark.parametrize("name", ["s-ade20k", "b-ade20k"])
def test_learning_rate_and_decay_follow_the_longest_key(name: str) -> None:
    model, optim = _model(name), RECIPES[name].optim
    names = {id(p): name_map(model).to_published(n) for n, p in model.named_parameters()}
    groups = parameter_groups(model, name_map(model), optim)
    settings = {names[id(p)]: (group["lr_mult"], group["weight_decay"]) for group in groups for p in group["params"]}
    own_rate = name == "b-ade20k"
    assert settings["backbone.norm0.weight"] == ((0.3, 0.01) if own_rate else (1, 0))
    assert settings["backbone.stages.0.blocks.0.ffn.layers.1.weight"] == ((0.3, 0.01) if own_rate else (1, 0.01))
    assert settings["backbone.stages.0.blocks.0.attn.w_msa.relative_position_bias_table"] == (1, 0)
    assert settings["neck.trf1s.0.proj1.0.weight"] == (1, 0.01)  # a norm that is not called one
    assert settings["neck.trf1s.0.norm2.bias"] == (1, 0)
    assert settings["decode_head.stages.0.cross_attn.relative_position_bias_table"] == (1, 0)
    assert settings["decode_head.query_norm.weight"] == (1, 0)


@pytest.mark.parametrize("name", RECIPES)
def test_a_saved_recipe_reads_back_equal(name: str) -> None:
    plain = to_plain(RECIPES[name])
    assert recipe_from_plain(PAPER, plain, "test") == RECIPES[name]
    assert from_plain(IIWAModel, plain["model"]) == RECIPES[name].model


@pytest.mark.parametrize("name", ["toy", "camvid"])
def test_the_small_recipes_start_from_scratch_and_build(name: str) -> None:
    recipe = RECIPES[name]
    assert not recipe.model.pretrained
    model = PAPER.build(recipe, 8).eval()
    height, width = recipe.augment.crop
    with torch.no_grad():
        assert model(torch.zeros(1, 3, height, width)).shape == (1, 8, height // 2, width // 2)
