"""What CGRSeg tells core about itself; importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cgrseg.options import CGRSegModel
from cgrseg.recipes import RECIPES
from segcore.paper import Paper
from segcore.recipe import Model, Recipe

if TYPE_CHECKING:
    from segcore.segmentor import Segmentor
    from segcore.weights.names import NameMap


def _build(recipe: Recipe, num_classes: int) -> Segmentor:
    from cgrseg.model import CGRSeg

    assert isinstance(recipe.model, CGRSegModel)
    return CGRSeg(recipe.model, num_classes, recipe.loss)


def _name_map(model: Segmentor) -> NameMap:
    from cgrseg.convert import name_map

    return name_map(model)


def _infer_model(options: Model, shapes: Mapping[str, tuple[int, ...]]) -> Model:
    from cgrseg.convert import infer_model

    return infer_model(options, shapes)


PAPER = Paper(
    name="cgrseg",
    title="CGRSeg: Context-Guided Spatial Feature Reconstruction for Efficient Semantic Segmentation (ECCV 2024)",
    model_class=CGRSegModel,
    recipes=RECIPES,
    build=_build,
    name_map=_name_map,
    infer_model=_infer_model,
)
