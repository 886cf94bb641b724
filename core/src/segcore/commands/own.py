"""The recipe `own` before its options are read: fitted to the pictures in the folder that the words name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from segcore.errors import InputError
from segcore.paper import Paper
from segcore.recipe import Recipe
from segcore.recipe.protocols import OWN_RECIPE


def fitted(paper: Paper, default: Recipe, asked: Recipe, words: Sequence[str]) -> Recipe:
    """Return the recipe with sizes, crop, iterations and mask values for the pictures; says what they are.

    Args:
        default: the recipe as the paper has it.
        asked: the same with the options of the words.

    Raises:
        InputError: if the folder is not named or cannot be used.
    """
    from segcore.data.fitting import crop_for, fit, measure  # with OpenCV, which --help does not need

    if not asked.run.data:
        raise InputError(
            f"the recipe {OWN_RECIPE} takes its sizes from your pictures: set --run.data to the folder that holds "
            "images/ and masks/, or give the work directory of a training in place of the recipe"
        )
    pictures = measure(asked.data, asked.run.data)
    recipe = fit(replace(default, data=replace(default.data, batch=asked.data.batch)), pictures)
    is_given = any(word.partition("=")[0].replace("_", "-") == "--augment.crop" for word in words)
    recipe = paper.with_crop(recipe, asked.augment.crop if is_given else crop_for(pictures.size))
    (height, width), (tall, wide) = pictures.size, recipe.augment.crop
    print(
        f"{OWN_RECIPE}: {pictures.count} training pictures, the middle one {width}x{height} (width x height): shorter "
        f"side {recipe.augment.scale[1]}, crops of {wide}x{tall}, {recipe.schedule.iterations} iterations",
        file=sys.stderr,
    )
    return recipe
