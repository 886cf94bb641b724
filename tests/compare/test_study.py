"""What a study trains: the same for every head but the head and its losses; and what may be added to it later."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segcore.compare.study import Study, heads_of, joined, planned, read_study, recipe_of, write_study
from segcore.data.fitting import crop_for, measure, scale_for
from segcore.errors import InputError
from segcore.recipe.plain import to_plain
from tests.data.test_folder import make_folder

HEADS = (
    "cgrseg-camvid,ecfd-camvid,iiwa-camvid,memorynet-camvid,unept-camvid,fcn-camvid,smp-unet,ecfd-tiny-r50-cityscapes"
)
STUDY = Study(
    dataset="camvid",
    root="data",
    papers=HEADS,
    backbone="resnet18",
    pretrained=False,
    iterations=40,
    crop=(96, 160),
    lrs=(1e-3,),
    work_dir="study",
)


def test_all_heads_share_everything_but_head_and_losses() -> None:
    recipes = {h.word: recipe_of(STUDY, planned(STUDY, h, 1e-3, 1), 40) for h in heads_of(STUDY)}
    assert len(recipes) == 8
    (first, *others) = recipes.values()
    for recipe in others:
        for part in ("data", "augment", "optim", "schedule", "evaluate"):
            assert getattr(recipe, part) == getattr(first, part), part
        assert replace(recipe.run, work_dir="") == replace(first.run, work_dir="")
        for option in ("backbone", "pretrained", "weights", "backbone_norm"):
            assert getattr(recipe.model, option) == getattr(first.model, option)
    assert len({recipe.run.work_dir for recipe in recipes.values()}) == 8
    assert (first.run.seed, first.schedule.iterations, first.augment.crop) == (1, 40, (96, 160))
    for head in heads_of(STUDY):
        ours, own = recipes[head.word].loss, head.base.loss
        assert (ours.ohem, ours.dice, ours.average, ours.auxiliary) == (own.ohem, own.dice, own.average, own.auxiliary)


def test_what_follows_from_crop_and_rate_is_set_for_the_study() -> None:
    models: dict[str, Any] = {h.word: recipe_of(STUDY, planned(STUDY, h, 3e-4, 0), 40).model for h in heads_of(STUDY)}
    assert models["ecfd-camvid"].position_grid == (24, 40)
    assert (models["unept-camvid"].window, models["unept-camvid"].resize_queries) == (120, True)
    assert models["memorynet-camvid"].momentum_lr == 3e-4
    assert models["cgrseg-camvid"].width == 96  # the head's own


def test_hard_pixels_are_the_same_share_of_another_crop_and_class_weights_stay_with_their_data() -> None:
    study = replace(STUDY, papers="iiwa-s-cityscapes,iiwa-camvid")
    city, camvid = (recipe_of(study, planned(study, h, 1e-3, 0), 40).loss for h in heads_of(study))
    assert city.class_weight == ()
    assert city.ohem_min_kept == round(100_000 * 96 * 160 / (512 * 1024))
    assert camvid.ohem_min_kept == round(2000 * 96 * 160 / (192 * 256))


def test_a_folder_of_ones_own_is_fitted_as_by_the_recipe_own(tmp_path: Path) -> None:
    make_folder(tmp_path)
    study = replace(STUDY, dataset="folder", root=str(tmp_path), papers="fcn-camvid", crop=(0, 0))
    (head,) = heads_of(study)
    recipe = recipe_of(study, planned(study, head, 1e-3, 0), 40)
    size = measure(recipe.data, str(tmp_path)).size
    assert (recipe.augment.crop, recipe.augment.scale) == (crop_for(size), scale_for(size))
    assert (recipe.evaluate.scale, recipe.data.test_split) == (scale_for(size), "test")


def test_the_output_stride_changes_only_heads_that_have_that_choice() -> None:
    study = replace(STUDY, output_stride=16, papers="iiwa-camvid,ecfd-camvid,cgrseg-camvid")
    iiwa, ecfd, cgrseg = (recipe_of(study, planned(study, h, 1e-3, 0), 40).model for h in heads_of(study))
    assert (iiwa.output_stride, ecfd.output_stride) == (16, 32)  # pyright: ignore[reportAttributeAccessIssue]
    assert not hasattr(cgrseg, "output_stride")


def test_a_study_grows_by_heads_and_seeds_and_refuses_other_settings(tmp_path: Path) -> None:
    small = replace(STUDY, papers="fcn-camvid", seeds=2, work_dir=str(tmp_path))
    write_study(tmp_path, joined(small, None, "first"))
    found = read_study(tmp_path)
    grown = joined(replace(small, papers="cgrseg-camvid,fcn-camvid", seeds=3), found, "second")
    assert (grown.heads, grown.seeds) == (["fcn-camvid", "cgrseg-camvid"], 3)
    assert grown.commands == ["first", "second"]
    assert joined(replace(small, seeds=1), grown, "third").seeds == 3
    other = replace(small, iterations=41, crop=(64, 64))
    with pytest.raises(InputError, match="begun with other values of --iterations, --crop"):
        joined(other, found, "")
    with pytest.raises(InputError, match=r"tries the learning rates 0\.001; give the same --lrs"):
        joined(replace(small, lrs=(1e-3, 1e-4)), found, "")
    assert read_study(tmp_path / "nothing") is None
    assert to_plain(found) == to_plain(joined(small, None, "first"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"papers": ""}, "--papers names no head"),
        ({"papers": "fcn,cgrseg,fcn"}, "--papers names fcn twice"),
        ({"lrs": ()}, "--lrs needs at least one"),
        ({"lrs": (-1.0,)}, "--lrs must be positive"),
        ({"output_stride": 4}, "--output-stride must be 8, 16, 32 or 0"),
        ({"seeds": 0}, "--seeds must be at least 1"),
    ],
)
def test_impossible_studies_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        replace(STUDY, **options)


def test_an_unknown_head_gets_close_names() -> None:
    with pytest.raises(InputError, match=r"there is no model 'cgrsg'.*did you mean cgrseg"):
        heads_of(replace(STUDY, papers="cgrsg"))
