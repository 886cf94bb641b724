"""The networks that a list of published tensor names may be of: those of every recipe, and IIWA on each Swin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from segcore.data import dataset_classes
from segcore.paper import Paper, installed_papers
from segcore.recipe import Recipe

_SWINS = (
    "tiny_patch4_window7_224",
    "small_patch4_window7_224",
    "base_patch4_window12_384",
    "large_patch4_window12_384",
)


def parameter_sizes(names: Sequence[str], total: int) -> dict[str, int]:
    """Return the number of values of each published tensor; together they tell the network.

    Raises:
        ValueError: if no network of ours has these tensors with so many values in all.
    """
    for paper, recipe in _networks():
        sizes = _sizes(paper, recipe)
        if sizes.keys() >= set(names) and sum(sizes[name] for name in names) == total:
            return sizes
    raise ValueError(f"no network of ours has {len(names)} tensors {names[0]}, ... of {total} values")


def _networks() -> Iterator[tuple[Paper, Recipe]]:
    for paper in installed_papers().values():
        for recipe in paper.recipes.values():
            if recipe.data.dataset != "folder":  # whose classes the user's pictures decide
                yield paper, recipe
    iiwa = installed_papers()["iiwa"]
    for swin in _SWINS:
        recipe = next(iter(iiwa.recipes.values()))
        yield iiwa, replace(recipe, model=replace(recipe.model, backbone=f"swin_{swin}"))


def _sizes(paper: Paper, recipe: Recipe) -> dict[str, int]:
    with torch.device("meta"):
        plain = replace(recipe, model=replace(recipe.model, pretrained=False))
        model = paper.build(plain, len(dataset_classes(recipe.data).names))
    names = paper.name_map(model)
    return {names.to_published(name): parameter.numel() for name, parameter in model.named_parameters()}
