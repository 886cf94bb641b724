"""The recipe `own` made to fit a folder of pictures: sizes, crop, iterations and mask values by stated rules."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segcore.data import create_dataset
from segcore.data.base import FileDataset
from segcore.data.folder import MASK_SUFFIXES, has_class_file
from segcore.data.labels import IGNORE
from segcore.data.listing import find_files, first_folder
from segcore.data.read import image_size, read_label
from segcore.errors import InputError
from segcore.recipe import Data, Recipe

SHORT_SIDE = (256, 512)
"""Pictures are resized so that the shorter side of the middle one lies between these, pixels."""
LONGEST = 4
"""The longer side is kept below this many times the shorter one."""
CROP_STEP = 32
"""Crops are two thirds of the middle picture in each direction, rounded down to a multiple of this."""
PASSES = 20
"""Training passes over the pictures ..."""
ITERATIONS = (800, 20_000)
"""... in at least and at most so many steps."""
_MEASURED = 200


class Pictures(NamedTuple):
    """What is to be known of a folder: training pictures, the (height, width) of the middle one, its mask values."""

    count: int
    size: tuple[int, int]
    mask_values: tuple[int, ...]


def measure(data: Data, root: str, threads: int = 4) -> Pictures:
    """Look at the training pictures of a folder (200 of them, evenly spread), and at its masks where no file names
    the classes.

    Raises:
        InputError: if the folder cannot be used, or an image or mask cannot be read.
    """
    values = data.mask_values or _values_without_names(data, root, threads)
    dataset = create_dataset(
        replace(data, mask_values=values), root, data.train_split, list_file=data.train_list, check_files=False
    )
    assert isinstance(dataset, FileDataset)
    chosen = np.linspace(0, len(dataset) - 1, min(_MEASURED, len(dataset))).round().astype(int)
    with ThreadPoolExecutor(threads) as pool:
        sizes = list(pool.map(lambda i: image_size(dataset.items[i].image, data.max_pixels), chosen))
    height, width = np.median(np.array(sizes), axis=0).astype(int).tolist()
    return Pictures(len(dataset), (height, width), values)


def _values_without_names(data: Data, root: str, threads: int) -> tuple[int, ...]:
    """Return the mask values that become classes where no file names these; none where one does.

    Every value that occurs is a class, but for `ignore` and 255; masks of nothing but 0 and 255 have these two.
    """
    if data.classes or has_class_file(Path(root)):
        return ()
    folder = first_folder([Path(root, "masks")], Path(root), "the image folder", "masks")
    paths = [folder / name for name in find_files(folder, MASK_SUFFIXES)]
    with ThreadPoolExecutor(threads) as pool:
        found = {
            int(v) for values in pool.map(lambda p: np.unique(read_label(p, data.max_pixels)), paths) for v in values
        }
    if found == {0, IGNORE} and data.ignore == IGNORE:
        return 0, IGNORE
    values = tuple(sorted(found - {IGNORE, data.ignore}))
    if not values:
        raise InputError(f"the masks in {folder} hold no class; write {Path(root, 'classes.txt')} and look at them")
    return values


def fit(recipe: Recipe, pictures: Pictures) -> Recipe:
    """Return the recipe with everything but the crop made to fit, see the rules above; `crop_for` gives the crop."""
    scale = scale_for(pictures.size)
    wanted = PASSES * pictures.count // recipe.data.batch
    iterations = int(np.clip(wanted, *ITERATIONS))
    interval = iterations // 5
    return replace(
        recipe,
        data=replace(recipe.data, mask_values=pictures.mask_values),
        augment=replace(recipe.augment, scale=scale),
        evaluate=replace(recipe.evaluate, scale=scale),
        schedule=replace(recipe.schedule, iterations=iterations),
        run=replace(recipe.run, eval_interval=interval, save_interval=interval),
    )


def scale_for(size: tuple[int, int]) -> tuple[int, int]:
    """Return the bounds of the resized picture, as a recipe has them, for pictures of a size."""
    short = _short_side(size)
    return LONGEST * short, short


def crop_for(size: tuple[int, int]) -> tuple[int, int]:
    """Return the training crop (height, width) for pictures of a size."""
    factor = _short_side(size) / min(size)
    height, width = (max(int(2 * side * factor) // (3 * CROP_STEP), 1) * CROP_STEP for side in size)
    return height, width


def _short_side(size: tuple[int, int]) -> int:
    return int(np.clip(min(size), *SHORT_SIDE))
