"""What IIWA tells core about itself; importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from iiwa.options import IIWAModel
from iiwa.recipes import RECIPES
from segcore.paper import Paper
from segcore.recipe import Model, Recipe

if TYPE_CHECKING:
    from segcore.segmentor import Segmentor
    from segcore.weights.names import NameMap


def _build(recipe: Recipe, num_classes: int) -> Segmentor:
    from iiwa.model import IIWA

    assert isinstance(recipe.model, IIWAModel)
    return IIWA(recipe.model, num_classes, recipe.loss)


def _name_map(model: Segmentor) -> NameMap:
    from iiwa.convert import name_map

    return name_map(model)


def _infer_model(options: Model, shapes: Mapping[str, tuple[int, ...]]) -> Model:
    from iiwa.convert import infer_model

    return infer_model(options, shapes)


PAPER = Paper(
    name="iiwa",
    title="IIWA: Intra- and Inter-Window Attention for semantic segmentation",
    model_class=IIWAModel,
    recipes=RECIPES,
    build=_build,
    name_map=_name_map,
    infer_model=_infer_model,
)
