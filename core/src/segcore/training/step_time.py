"""A training step without the optimizer, to be timed."""

from __future__ import annotations

from collections.abc import Callable

import torch

from segcore.layers.precision import memory_format, mixed_precision
from segcore.paper import Paper
from segcore.recipe import Recipe
from segcore.segmentor import Segmentor, StepInfo
from segcore.training.batches import target_of_labels


def timed_step(
    paper: Paper, recipe: Recipe, model: Segmentor, size: tuple[int, int], batch: int, device: torch.device
) -> Callable[[], None]:
    """Return a function that computes the losses of random images and their gradients.

    Args:
        model: in training mode, on `device`.
        size: height and width of the images.
    """
    images = torch.randn(batch, 3, *size, device=device)
    images = images.to(memory_format=memory_format(recipe.run.channels_last))
    labels = torch.randint(0, model.num_classes, (batch, *size), device=device)
    target = target_of_labels(labels, paper.map_source(recipe))

    def learn() -> None:
        with mixed_precision(device, recipe.run.amp):
            losses = model.losses(images, target, StepInfo(0, 1, recipe.optim.lr))
        losses.total().backward()
        model.zero_grad()

    return learn
