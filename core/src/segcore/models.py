"""Networks by name, and what a training loop of one's own needs of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from segcore.build import build_model
from segcore.data import dataset_classes
from segcore.data.base import ClassTable
from segcore.data.palette import make_palette
from segcore.errors import check
from segcore.paper import find_model, load_paper
from segcore.recipe import Optim
from segcore.recipe.plain import from_plain, to_plain
from segcore.segmentor import Segmentor
from segcore.training import optim
from segcore.weights.files import run_versions
from segcore.weights.header import CheckpointMeta


def create_model(
    name_or_paper: str, *, backbone: str = "", num_classes: int = 0, pretrained: bool = False, **options: Any
) -> Segmentor:
    """Build the network of a recipe, in training mode and on the CPU as torch's modules are.

    It has `backbone`, `head` and `num_classes`; `model(image)` gives logits at the head's stride, `model.logits(image)`
    at the image's size, `model.backbone(image)` the feature maps, `model.losses(...)` what its paper trains on.

    Args:
        name_or_paper: a name of `list_models`, such as cgrseg-t-ade20k; a paper alone, such as cgrseg, is its first
            recipe.
        backbone: one of segcore or any timm model, in place of the recipe's.
        num_classes: K; 0 takes the classes of the recipe's data set.
        pretrained: start the backbone from ImageNet weights, downloaded through timm; the head is random either way.
            Trained networks come from `Predictor.from_pretrained`.
        options: fields of the paper's options, those of `--model.` in `<paper>-train NAME --help`, with underscores.

    Shapes:
        of the network: image (B, 3, H, W), normalized RGB (docs/protocol 2.7) -> logits (B, K, h, w)

    Raises:
        InputError: for an unknown name, backbone or option, a value that is impossible, or weights that cannot be had.
    """
    paper, name = find_model(name_or_paper)
    recipe = paper.recipes[name]
    changes = {**options, "pretrained": pretrained, **({"backbone": backbone} if backbone else {})}
    model = from_plain(paper.model_class, {**to_plain(recipe.model), **changes}, f"create_model({name_or_paper!r})")
    recipe = replace(recipe, model=model)
    check(num_classes >= 0, f"num_classes must be at least 1, or 0 for those of the data set, got {num_classes}")
    classes = _numbered(num_classes) if num_classes else dataset_classes(recipe.data)
    network = build_model(paper, recipe, len(classes.names))
    meta = CheckpointMeta(
        paper=paper.name,
        recipe_name=name,
        recipe=to_plain(recipe),
        classes=list(classes.names),
        palette=classes.palette.tolist(),
        iteration=0,
        scores={},
        versions=run_versions(),
    )
    network.origin = paper.origin(meta)
    return network


def parameter_groups(model: Segmentor, **changes: Any) -> list[dict[str, Any]]:
    """Return a network's parameters in the groups that its recipe trains them in, for an optimizer of torch.

    Args:
        model: made by `create_model` or loaded from a file.
        changes: fields of `Optim` in place of the recipe's: lr, weight_decay, lr_mult, decay_mult, ...

    Returns:
        Groups with `params`, `lr` (the recipe's times the group's factor), `lr_mult` (the factor) and `weight_decay`.

    Raises:
        InputError: for an unknown field, an impossible value, or a network that was put together by hand.
    """
    meta = model.known_origin().meta
    settings = from_plain(Optim, {**meta.recipe["optim"], **changes}, "parameter_groups")
    return optim.parameter_groups(model, load_paper(meta.paper).name_map(model), settings)


def _numbered(num_classes: int) -> ClassTable:
    """Return classes whose names are not known."""
    return ClassTable(tuple(f"class {i}" for i in range(num_classes)), make_palette(num_classes))
