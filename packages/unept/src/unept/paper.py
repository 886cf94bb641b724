"""What UN-EPT tells core about itself; importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from segcore.paper import Paper
from segcore.recipe import Model, Recipe
from unept.options import UNEPTModel
from unept.recipes import RECIPES

if TYPE_CHECKING:
    from segcore.images.target_maps import MapSource
    from segcore.segmentor import Segmentor
    from segcore.weights.names import NameMap


def _build(recipe: Recipe, num_classes: int) -> Segmentor:
    from unept.model import UNEPT

    assert isinstance(recipe.model, UNEPTModel)
    return UNEPT(recipe.model, num_classes, recipe.loss)


def _name_map(model: Segmentor) -> NameMap:
    from unept.convert import name_map

    return name_map(model)


def _infer_model(options: Model, shapes: Mapping[str, tuple[int, ...]]) -> Model:
    from unept.convert import infer_model

    return infer_model(options, shapes)


def _label_maps(recipe: Recipe) -> MapSource:
    from unept.boundary_source import BoundarySource

    assert isinstance(recipe.model, UNEPTModel)
    return BoundarySource(recipe.model.mirror_angles)


PAPER = Paper(
    name="unept",
    title="UN-EPT: A Unified Efficient Pyramid Transformer for Semantic Segmentation (ICCV 2021 workshops)",
    model_class=UNEPTModel,
    recipes=RECIPES,
    build=_build,
    name_map=_name_map,
    infer_model=_infer_model,
    label_maps=_label_maps,
)
