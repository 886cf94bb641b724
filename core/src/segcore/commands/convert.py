"""`segcore convert`: between published checkpoints and ours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from segcore.commands.parsing import parse_options
from segcore.errors import InputError, check
from segcore.files import atomic_write
from segcore.paper import Paper, load_paper
from segcore.recipe import Recipe
from segcore.recipe.plain import to_plain
from segcore.weights.header import require_checkpoint

if TYPE_CHECKING:
    from segcore.data.base import ClassTable
    from segcore.weights.files import LoadedCheckpoint

_DESCRIPTION = """Turn a published .pth checkpoint into one of ours (IN.pth OUT.safetensors --paper --recipe), or one of
ours into the published layout (IN.safetensors OUT.pth). Every tensor must fit; nothing is skipped silently."""


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What to convert."""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IN")]
    """Checkpoint to read."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """File to write: .safetensors, or .pth for the reverse."""
    paper: str = ""
    """Paper that the checkpoint is of, e.g. cgrseg."""
    recipe: str = ""
    """Recipe it was trained with, e.g. t-ade20k."""
    classes: Annotated[str, tyro.conf.arg(metavar="FILE|DATASET")] = ""
    """Classes of a checkpoint that names none: a file (names, or JSON), or a data set; empty takes the recipe's."""
    unsafe: bool = False
    """Unpickle without restriction: RUNS CODE of the file; only for files you trust."""

    def __post_init__(self) -> None:
        is_known = self.out.suffix in (".safetensors", ".pth")
        check(is_known, f"{self.out}: expected OUT to end with .safetensors (ours) or .pth (published)")
        is_named = bool(self.paper and self.recipe) or self.out.suffix == ".pth"
        check(is_named, "converting a published checkpoint needs --paper NAME and --recipe NAME")


def main(words: list[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        InputError: for files that cannot be read, written or converted.
    """
    options = parse_options("segcore convert", _DESCRIPTION, ConvertOptions, words)
    require_checkpoint(options.source)
    if options.out.suffix == ".safetensors":
        to_ours(options)
    else:
        to_published(options.source, options.out)
    print(f"wrote {options.out}")
    return 0


def to_ours(options: ConvertOptions) -> None:
    """Convert a published checkpoint into a weights file of ours, with the recipe and classes in its header."""
    from segcore.build import load_for_recipe  # torch loads only here, so --help is instant
    from segcore.weights.files import read_checkpoint, run_versions, save_weights
    from segcore.weights.header import CheckpointMeta

    paper = load_paper(options.paper)
    recipe = _find_recipe(paper, options.recipe)
    loaded = read_checkpoint(options.source, unsafe=options.unsafe)
    if loaded.meta is not None:
        raise InputError(f"{options.source} is one of ours already; expected a published .pth")
    table = _classes(options.classes, recipe, loaded)
    model, model_options = load_for_recipe(paper, recipe, len(table.names), loaded)
    meta = CheckpointMeta(
        paper=paper.name,
        recipe_name=options.recipe,
        recipe=to_plain(replace(recipe, model=model_options)),
        classes=list(table.names),
        palette=table.palette.tolist(),
        iteration=int(loaded.published_meta.get("iter", 0)),
        scores={},
        versions=run_versions(),
    )
    left_over = paper.name_map(model).left_over(model, loaded.tensors)
    save_weights(options.out, model.state_dict(), meta, left_over)


def to_published(source: Path, out: Path) -> None:
    """Convert a weights file of ours into a published one: the paper's names, shapes and entry, `meta` with classes."""
    import torch  # only here, so --help is instant

    from segcore.build import build_from_loaded
    from segcore.weights.files import read_checkpoint

    loaded = read_checkpoint(source)
    model, meta, _ = build_from_loaded(loaded)
    names = load_paper(meta.paper).name_map(model)
    described = {"CLASSES": tuple(meta.classes), "PALETTE": meta.palette, "iter": meta.iteration}
    with atomic_write(out) as file:
        torch.save({"meta": described, names.container: {**names.export(model), **loaded.left_over}}, file)


def _find_recipe(paper: Paper, name: str) -> Recipe:
    if name not in paper.recipes:
        raise InputError(f"{paper.name} has no recipe {name!r}; `{paper.name}-train --list` prints them")
    return paper.recipes[name]


def _classes(asked: str, recipe: Recipe, loaded: LoadedCheckpoint) -> ClassTable:
    """Return the classes that were asked for, else those that the file names, else those of the recipe's data set."""
    import numpy as np

    from segcore.data import dataset_classes
    from segcore.data.base import ClassTable
    from segcore.data.folder import read_classes
    from segcore.data.palette import make_palette

    if asked and Path(asked).is_file():
        return read_classes(Path(asked))
    names = loaded.published_meta.get("CLASSES")
    if names and not asked:
        palette = np.asarray(loaded.published_meta.get("PALETTE", ()))
        is_complete = palette.shape == (len(names), 3)
        return ClassTable(tuple(map(str, names)), palette.astype(np.uint8) if is_complete else make_palette(len(names)))
    return dataset_classes(recipe.data, asked)
