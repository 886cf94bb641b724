"""What a run takes from the pixels of each class: `--loss.class-weight auto` and `--data.rare-temperature`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from segcore import distributed
from segcore.data.base import SegmentationDataset
from segcore.data.class_pixels import balanced_weights, count_pixels, rare_chances
from segcore.errors import InputError
from segcore.recipe import Recipe
from segcore.training.batches import BatchPlan, RarePlan


@dataclass(frozen=True)
class Balance:
    """The pixels of each class in each training image, (N, K) int64; None where no option asks for them."""

    counts: np.ndarray | None

    @classmethod
    def of(cls, dataset: SegmentationDataset, recipe: Recipe, world: distributed.World) -> Balance:
        """Read all training labels where an option asks for it, on the first process; the others get its counts.

        Raises:
            InputError: if a label cannot be used.
        """
        if recipe.loss.class_weight != "auto" and not recipe.data.rare_temperature:
            return cls(None)
        counts, problem = None, ""
        if world.is_main:
            try:
                counts = count_pixels(dataset)
            except InputError as error:
                problem = str(error)
        counts, problem = distributed.broadcast_object((counts, problem))
        if problem:
            raise InputError(problem)
        return cls(counts)

    def resolved(self, recipe: Recipe) -> Recipe:
        """Return the recipe with the weights of the classes as numbers."""
        if self.counts is None or recipe.loss.class_weight != "auto":
            return recipe
        return replace(recipe, loss=replace(recipe.loss, class_weight=balanced_weights(self.counts)))

    def plan(self, num_images: int, recipe: Recipe) -> BatchPlan:
        """Return which images form which batch."""
        batch, seed, temperature = recipe.data.batch, recipe.run.seed, recipe.data.rare_temperature
        if self.counts is None or not temperature:
            return BatchPlan(num_images, batch, seed)
        showing = [np.flatnonzero(column) for column in self.counts.T]
        return RarePlan(num_images, batch, seed, rare_chances(self.counts, temperature), showing)
