"""What MemoryNet tells core about itself; importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from memorynet.options import MemoryNetModel
from memorynet.recipes import RECIPES
from segcore.errors import check
from segcore.paper import Paper
from segcore.recipe import Model, Recipe

if TYPE_CHECKING:
    from segcore.report.page import Section
    from segcore.segmentor import Segmentor
    from segcore.weights.files import LoadedCheckpoint
    from segcore.weights.names import NameMap

_ROUNDING = 1e-9


def _build(recipe: Recipe, num_classes: int) -> Segmentor:
    from memorynet.model import MemoryNet

    options = recipe.model
    assert isinstance(options, MemoryNetModel)
    if options.momentum_lr > 0:
        momentum = options.momentum / options.momentum_lr * recipe.optim.lr
        check(
            momentum <= 1 + _ROUNDING,
            f"--optim.lr {recipe.optim.lr:g} makes the memory's momentum {momentum:.3g}, more than 1; set "
            f"--model.momentum-lr {recipe.optim.lr:g} too, which keeps it at {options.momentum:g}",
        )
    return MemoryNet(options, num_classes, recipe.loss)


def _name_map(model: Segmentor) -> NameMap:
    from memorynet.convert import name_map

    return name_map(model)


def _infer_model(options: Model, shapes: Mapping[str, tuple[int, ...]]) -> Model:
    from memorynet.convert import infer_model

    return infer_model(options, shapes)


def _report(loaded: LoadedCheckpoint) -> tuple[Section, ...]:
    from memorynet.inspection.page import report_sections

    return report_sections(loaded)


PAPER = Paper(
    name="memorynet",
    title="MemoryNet: Mining Contextual Information Beyond Image for Semantic Segmentation (ICCV 2021)",
    model_class=MemoryNetModel,
    recipes=RECIPES,
    build=_build,
    name_map=_name_map,
    infer_model=_infer_model,
    report=_report,
)
