"""What ECFD tells core about itself; importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ecfd.options import ECFDModel
from ecfd.recipes import RECIPES
from segcore.paper import Paper
from segcore.recipe import Model, Recipe

if TYPE_CHECKING:
    from segcore.segmentor import Segmentor
    from segcore.weights.names import NameMap


def _build(recipe: Recipe, num_classes: int) -> Segmentor:
    from ecfd.model import ECFD

    assert isinstance(recipe.model, ECFDModel)
    return ECFD(recipe.model, num_classes, recipe.loss)


def _name_map(model: Segmentor) -> NameMap:
    from ecfd.convert import name_map

    return name_map(model)


def _infer_model(options: Model, shapes: Mapping[str, tuple[int, ...]]) -> Model:
    from ecfd.convert import infer_model

    return infer_model(options, shapes)


PAPER = Paper(
    name="ecfd",
    title="ECFD: Efficient Cross-Information Fusion Decoder for Semantic Segmentation",
    model_class=ECFDModel,
    recipes=RECIPES,
    build=_build,
    name_map=_name_map,
    infer_model=_infer_model,
)
