"""The recipe `own`: what its rules make of the pictures and masks of a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segcore.commands.parsing import parse_recipe
from segcore.data.fitting import ITERATIONS, Pictures, crop_for, fit, measure
from segcore.data.folder import FolderDataset
from segcore.errors import InputError
from segcore.paper import installed_papers
from segcore.recipe import Recipe
from segcore.recipe.protocols import OWN, OWN_RECIPE
from tests.data.test_datasets import SIZE, noise, save
from tests.data.test_folder import make_folder
from tests.tiny_paper import PAPER

PAPERS = {name: paper for name, paper in installed_papers().items() if OWN_RECIPE in paper.recipes}
TINY = replace(PAPER.recipes["toy"], data=OWN.data, augment=OWN.augment, evaluate=OWN.evaluate)


@pytest.mark.parametrize(
    ("size", "short", "crop"),
    [
        ((360, 480), 360, (224, 320)),
        ((3000, 4000), 512, (320, 448)),
        ((100, 100), 256, (160, 160)),
        ((512, 20), 256, (4352, 160)),
    ],
)
def test_sizes_follow_the_middle_picture(size: tuple[int, int], short: int, crop: tuple[int, int]) -> None:
    assert crop_for(size) == crop
    recipe = fit(TINY, Pictures(10, size, ()))
    assert recipe.augment.scale == recipe.evaluate.scale == (4 * short, short)


@pytest.mark.parametrize(("count", "iterations"), [(5, ITERATIONS[0]), (367, 917), (10**6, ITERATIONS[1])])
def test_iterations_are_twenty_passes_within_bounds(count: int, iterations: int) -> None:
    recipe = fit(TINY, Pictures(count, (360, 480), ()))
    assert recipe.data.batch == 8
    assert recipe.schedule.iterations == iterations
    assert recipe.run.eval_interval == iterations // 5


@pytest.mark.parametrize(("values", "expected"), [((0, 255), (0, 255)), ((0, 3, 9, 255), (0, 3, 9)), ((1, 2), (1, 2))])
def test_without_a_class_file_the_mask_values_are_the_classes(
    tmp_path: Path, values: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    for number in range(4):
        save(tmp_path / "images" / f"{number}.png", noise(number))
        label = np.full(SIZE, values[0], np.uint8)
        label[0, : len(values)] = values
        save(tmp_path / "masks" / f"{number}.png", label)
    found = measure(OWN.data, str(tmp_path))
    assert (found.count, found.size, found.mask_values) == (3, SIZE, expected)
    dataset = FolderDataset(tmp_path, "train", mask_values=found.mask_values)
    assert dataset.classes.names == tuple(f"value {value}" for value in expected)
    label = dataset.load_label(0)
    assert set(np.unique(label)) == {*range(len(expected)), *({255} if 255 in values and 255 not in expected else ())}


def test_masks_without_any_class_are_refused(tmp_path: Path) -> None:
    root = make_folder(tmp_path, value=255)
    (root / "classes.txt").unlink()
    with pytest.raises(InputError, match=r"hold no class; write .*classes\.txt"):
        measure(OWN.data, str(root))


def own(paper: str, root: Path, *words: str) -> Recipe:
    asked = parse_recipe(f"{paper}-train", PAPERS[paper], [OWN_RECIPE, "--run.data", str(root), *words])
    assert asked is not None
    return asked.recipe


@pytest.mark.parametrize("paper", sorted(PAPERS))
def test_every_paper_fits_its_recipe_and_options_win(paper: str, tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    recipe = own(paper, root)
    assert recipe.augment.crop[0] == crop_for(SIZE)[0]
    assert recipe.data.mask_values == ()
    chosen = own(paper, root, "--augment.crop", "128", "128", "--schedule.iterations", "7", "--schedule.warmup=0")
    assert (chosen.augment.crop, chosen.schedule.iterations) == ((128, 128), 7)
    assert chosen.augment.scale == recipe.augment.scale
    if paper == "unept":
        assert (
            recipe.augment.crop[0] == recipe.augment.crop[1] == vars(recipe.model)["window"] == recipe.evaluate.crop[0]
        )
        assert vars(chosen.model)["window"] == chosen.evaluate.crop[0] == 128
    if paper == "ecfd":
        assert vars(chosen.model)["position_grid"] == (32, 32)


def test_the_recipe_needs_its_pictures(tmp_path: Path) -> None:
    paper = next(iter(PAPERS))
    with pytest.raises(InputError, match=r"the recipe own takes its sizes from your pictures: set --run\.data"):
        parse_recipe("x", PAPERS[paper], [OWN_RECIPE])
    with pytest.raises(InputError, match="does not exist"):
        own(paper, tmp_path / "absent")
