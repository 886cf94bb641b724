"""From a recipe or a checkpoint to a network: the one place where weights and options are brought together."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from segcore.errors import InputError
from segcore.layers.fuse import fuse_norms
from segcore.layers.pointwise import use_onednn_pointwise
from segcore.layers.precision import memory_format
from segcore.layers.replay import Replays
from segcore.paper import Paper, load_paper
from segcore.recipe import Model, Recipe, Run
from segcore.recipe.file import recipe_from_plain
from segcore.recipe.plain import from_plain, to_plain
from segcore.segmentor import Segmentor
from segcore.weights.files import LoadedCheckpoint, load_into, read_checkpoint
from segcore.weights.header import CheckpointMeta

_STARTING = ("pretrained", "weights", "backbone_norm", "freeze")
_RATES = ("dropout", "drop_path")
log = logging.getLogger(__name__)


class BuiltModel(NamedTuple):
    """A network rebuilt from one of our weights files alone."""

    model: Segmentor
    meta: CheckpointMeta
    recipe: Recipe


def build_model(paper: Paper, recipe: Recipe, num_classes: int) -> Segmentor:
    """Return a network with its initial weights, the backbone's from ImageNet where the recipe says so."""
    return paper.build(recipe, num_classes)


def placed(model: Segmentor, run: Run, device: torch.device) -> Segmentor:
    """Return the network on a device, in the run's memory format; on a CPU its 1x1 convolutions take oneDNN."""
    if device.type == "cpu":
        use_onednn_pointwise(model)
    return model.to(device).to(memory_format=memory_format(run.channels_last))


def for_inference(model: Segmentor, run: Run) -> Segmentor:
    """Return what tests, predicts and validates: the network with its norms folded, or itself with --run.exact.

    On a CUDA device its tests replay recorded forward passes. The copy shares tensors with `model`, see `fuse_norms`.
    """
    if run.exact:
        return model
    network = fuse_norms(model)
    network.replays = Replays()
    return network


def fine_tune_from(
    paper: Paper, recipe: Recipe, num_classes: int, path: str | Path, *, unsafe: bool = False
) -> Segmentor:
    """Return the recipe's network with the weights of a checkpoint; a classifier for other classes starts anew.

    Raises:
        InputError: if the checkpoint is of another model than the recipe's, or made with other `--model` options.
    """
    loaded = read_checkpoint(path, unsafe=unsafe)
    options = _options_of(paper, recipe.model, loaded)
    changed = _differences(recipe.model, options)
    if changed:
        raise InputError(f"{path} was made with other options; repeat the command with {' '.join(changed)}")
    model = _build_empty(paper, recipe, recipe.model, num_classes)
    initial = load_into(model, loaded, paper.name_map(model), fine_tune=True)
    if initial:
        log.warning("%s has other classes: %s start from their initial values", path, ", ".join(initial))
    return model


def model_for_checkpoint(
    paper: Paper, recipe: Recipe, num_classes: int, path: str | Path, *, unsafe: bool = False
) -> Segmentor:
    """Return the network that a checkpoint was made with, loaded strictly.

    Options that the checkpoint itself tells (such as a number of modules) win over the recipe's.

    Raises:
        InputError: if the checkpoint is of another backbone, paper or class number.
    """
    return load_for_recipe(paper, recipe, num_classes, read_checkpoint(path, unsafe=unsafe)).model


class LoadedModel(NamedTuple):
    """A network with a checkpoint's weights, and the options it was built with."""

    model: Segmentor
    options: Model


def load_for_recipe(paper: Paper, recipe: Recipe, num_classes: int, loaded: LoadedCheckpoint) -> LoadedModel:
    """Do what `model_for_checkpoint` does with a checkpoint that was read already.

    Logs which options of the recipe one of our checkpoints replaces.
    """
    options = _options_of(paper, recipe.model, loaded)
    if options.backbone != recipe.model.backbone:
        origin = "the recipe that it was trained with" if loaded.meta is None else "its run's work directory"
        raise InputError(
            f"{loaded.path} is a checkpoint of another model: its backbone is {options.backbone}, "
            f"the recipe's {recipe.model.backbone}; add --model.backbone {options.backbone}, or give {origin} in place "
            "of the recipe"
        )
    replaced = _differences(recipe.model, options)
    if replaced and loaded.meta is not None:
        log.warning("%s was trained with %s: used instead of what the recipe says", loaded.path, " ".join(replaced))
    model = _build_empty(paper, recipe, options, num_classes)
    load_into(model, loaded, paper.name_map(model))
    return LoadedModel(model, options)


def build_from_checkpoint(path: str | Path, *, unsafe: bool = False) -> BuiltModel:
    """Rebuild a network from one of our weights files: paper, recipe and classes are in it.

    Raises:
        InputError: if the file is a published one, which says too little about itself, or its paper is not installed.
    """
    return build_from_loaded(read_checkpoint(path, unsafe=unsafe))


def build_from_loaded(loaded: LoadedCheckpoint) -> BuiltModel:
    """Do what `build_from_checkpoint` does with a checkpoint that was read already."""
    path, meta = loaded.path, loaded.meta
    if meta is None:
        raise InputError(
            f"{path} is a published file, which does not say its recipe; turn it into ours first with "
            f"`segcore convert {path} OUT.safetensors --paper NAME --recipe NAME`"
        )
    paper = load_paper(meta.paper)
    recipe = recipe_from_plain(paper, meta.recipe, str(path))
    model = _build_empty(paper, recipe, recipe.model, len(meta.classes))
    load_into(model, loaded, paper.name_map(model))
    model.origin = paper.origin(meta)
    return BuiltModel(model, meta, recipe)


def _build_empty(paper: Paper, recipe: Recipe, options: Model, num_classes: int) -> Segmentor:
    """Build without ImageNet weights: a checkpoint overwrites them all."""
    return paper.build(replace(recipe, model=replace(options, pretrained=False, weights="")), num_classes)


def _options_of(paper: Paper, wanted: Model, loaded: LoadedCheckpoint) -> Model:
    """Return the options that a checkpoint was made with: stated in ours, inferred from shapes in a published one."""
    if loaded.meta is None:
        shapes = {name: tuple(tensor.shape) for name, tensor in loaded.tensors.items()}
        try:
            return paper.infer_model(wanted, shapes)
        except InputError as error:  # it knows the tensors, but not the file
            raise InputError(f"{loaded.path} is a checkpoint of another model: {error}") from error
    if loaded.meta.paper != paper.name:
        raise InputError(f"{loaded.path} is a checkpoint of {loaded.meta.paper}, not of {paper.name}")
    stated = from_plain(paper.model_class, loaded.meta.recipe.get("model", {}), f"{loaded.path}: model")
    return replace(stated, **{name: value for name, value in vars(wanted).items() if _is_for_training(wanted, name)})


def _differences(wanted: Model, found: Model) -> list[str]:
    """Return the command-line options that turn one network into the other."""
    ours, theirs = to_plain(wanted), to_plain(found)
    return [
        f"--model.{name.replace('_', '-')} {_as_words(theirs[name])}"
        for name in ours
        if not _is_for_training(wanted, name) and theirs[name] != ours[name]
    ]


def _is_for_training(options: Model, name: str) -> bool:
    """Return whether an option says how to start and train, not what the network is: stages may differ in it."""
    return name in _STARTING or name in options.training_only or name.endswith(_RATES)


def _as_words(value: object) -> str:
    return " ".join(str(item) for item in value) if isinstance(value, list) else str(value)
