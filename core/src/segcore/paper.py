"""What a paper's package tells core about itself, and how core finds the installed ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from segcore.errors import InputError
from segcore.recipe import Model, Recipe

if TYPE_CHECKING:
    from segcore.images.target_maps import MapSource
    from segcore.report.page import Section
    from segcore.segmentor import Segmentor
    from segcore.weights.files import LoadedCheckpoint
    from segcore.weights.names import NameMap

GROUP = "segcore.papers"


@dataclass(frozen=True, kw_only=True)
class Paper:
    """One installed paper. Building it imports no torch; its functions import what they need when they are called."""

    name: str
    """Distribution, import and command prefix."""
    title: str
    """Name and reference of the paper, one line."""
    model_class: type[Model]
    """Its `Model` options, to read a saved recipe back."""
    recipes: Mapping[str, Recipe]
    """Recipe name -> recipe; has at least `toy` and `camvid`."""
    build: Callable[[Recipe, int], Segmentor]
    """(recipe, number of classes) -> network with its initial weights (pretrained where the recipe says so)."""
    name_map: Callable[[Segmentor], NameMap]
    """Published tensor names of a network, for parameter rules and published checkpoints."""
    infer_model: Callable[[Model, Mapping[str, tuple[int, ...]]], Model]
    """(options, published tensor name -> shape) -> the options of a checkpoint, as far as its shapes tell them."""
    label_maps: Callable[[Recipe], MapSource] | None = None
    """recipe -> source of the maps beside the label that training is supervised with (unept/PAPER 8)."""
    report: Callable[[LoadedCheckpoint], tuple[Section, ...]] | None = None
    """A run's weights -> sections of this paper's own on the run's page (`segcore report`)."""

    def map_source(self, recipe: Recipe) -> MapSource | None:
        """Return the source of the recipe's maps, None where labels are all that training needs."""
        return self.label_maps(recipe) if self.label_maps else None


def installed_papers() -> dict[str, Paper]:
    """Return every installed paper by its name, sorted."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    return {name: found[name].load() for name in sorted(found)}


def load_paper(name: str) -> Paper:
    """Return one installed paper.

    Raises:
        InputError: if no package registers that name.
    """
    for point in entry_points(group=GROUP, name=name):
        return point.load()
    installed = ", ".join(sorted(point.name for point in entry_points(group=GROUP))) or "none"
    raise InputError(f"the paper {name!r} is not installed (installed: {installed}); pip install ./packages/{name}")
