"""What a paper's package tells core about itself, and how core finds the installed ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from importlib.metadata import entry_points
from importlib.resources import files
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from segcore.errors import InputError
from segcore.recipe import Model, Recipe

if TYPE_CHECKING:
    from segcore.hub.origin import Origin
    from segcore.images.target_maps import MapSource
    from segcore.pages.page import Section
    from segcore.segmentor import Segmentor
    from segcore.weights.files import LoadedCheckpoint
    from segcore.weights.header import CheckpointMeta
    from segcore.weights.names import NameMap, Shapes

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
    infer_model: Callable[[Model, Shapes], Model]
    """(options, published tensor name -> shape) -> the options of a checkpoint, as far as its shapes tell them."""
    target_maps: Callable[[Recipe], MapSource] | None = None
    """recipe -> source of the maps beside the label that training is supervised with (unept/PAPER 8)."""
    report: Callable[[LoadedCheckpoint], tuple[Section, ...]] | None = None
    """A run's weights -> sections of this paper's own on the run's page (`segcore report`)."""
    follow_crop: Callable[[Recipe], Recipe] | None = None
    """recipe with another training crop -> the recipe with whatever else must fit the crop; may round the crop."""
    citation: str = ""
    """BibTeX entry; empty where none is known."""
    proven: str = ""
    """How far the network was compared with the published code, in sentences for a model card."""

    def with_crop(self, recipe: Recipe, crop: tuple[int, int]) -> Recipe:
        """Return a recipe that trains on crops of another size (height, width), with all that must fit it."""
        changed = replace(recipe, augment=replace(recipe.augment, crop=crop))
        return self.follow_crop(changed) if self.follow_crop else changed

    def map_source(self, recipe: Recipe) -> MapSource | None:
        """Return the source of the recipe's maps, None where labels are all that training needs."""
        return self.target_maps(recipe) if self.target_maps else None

    def origin(self, meta: CheckpointMeta) -> Origin:
        """Return what a network of this paper is to know of itself."""
        from segcore.hub.origin import Origin

        return Origin(meta=meta, title=self.title, citation=self.citation, proven=self.proven)


@dataclass(frozen=True)
class Later:
    """A function, or another name of a module, that is imported when it is called."""

    place: str
    """module:function"""

    def __call__(self, *arguments: Any) -> Any:
        return resolve_name(self.place)(*arguments)


def paper_of_package(
    package: str, *, title: str, model_class: type[Model], recipes: Mapping[str, Recipe], **more: Any
) -> Paper:
    """Return the paper of a package whose files have the usual names.

    `model.py` has `build`; `names.py` has `name_map` and `infer_model`; `citation.bib` says how to cite the paper.

    Args:
        package: import name, which is the paper's name.
        more: further fields of `Paper`.
    """
    citation = files(package) / "citation.bib"
    return Paper(
        name=package,
        title=title,
        model_class=model_class,
        recipes=recipes,
        build=Later(f"{package}.model:build"),
        name_map=Later(f"{package}.names:name_map"),
        infer_model=Later(f"{package}.names:infer_model"),
        citation=citation.read_text("utf-8") if citation.is_file() else "",
        **more,
    )


def installed_papers() -> dict[str, Paper]:
    """Return every installed paper by its name, sorted."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    return {name: found[name].load() for name in sorted(found)}


def list_models(pattern: str = "*") -> list[str]:
    """Return the recipes of the installed papers as names for `create_model`, such as cgrseg-t-ade20k.

    Args:
        pattern: with * and ?, such as *-ade20k.
    """
    names = (f"{paper.name}-{recipe}" for paper in installed_papers().values() for recipe in paper.recipes)
    return [name for name in names if fnmatchcase(name, pattern)]


def find_model(name: str) -> tuple[Paper, str]:
    """Return the paper and the recipe that a name of `list_models` means; a paper alone is its first recipe.

    Raises:
        InputError: if there is none, with close names.
    """
    papers = installed_papers()
    paper, _, recipe = name.partition("-")
    if paper in papers and (not recipe or recipe in papers[paper].recipes):
        return papers[paper], recipe or next(iter(papers[paper].recipes))
    close = get_close_matches(name, [*papers, *list_models()], n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "segcore.list_models() gives the names"
    raise InputError(f"there is no model {name!r} among the installed papers ({', '.join(papers) or 'none'}); {hint}")


def load_paper(name: str) -> Paper:
    """Return one installed paper.

    Raises:
        InputError: if no package registers that name.
    """
    for point in entry_points(group=GROUP, name=name):
        return point.load()
    installed = ", ".join(sorted(point.name for point in entry_points(group=GROUP))) or "none"
    raise InputError(f"the paper {name!r} is not installed (installed: {installed}); pip install ./packages/{name}")
