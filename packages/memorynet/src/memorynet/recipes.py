"""One recipe per row of MemoryNet's results tables (memorynet/PAPER 5), and two that run anywhere.

memorynet-train r50-ade20k --run.data ADEChallengeData2016      expects 44.39 % mIoU on the validation images
memorynet-train toy                                             generated scenes, in minutes on two CPU cores
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from memorynet.options import HRNET_W48, R50, R101, S101, VIT_L, MemoryNetModel
from segcore.paper import Later, paper_of_package
from segcore.recipe import Augment, Data, Evaluate, Loss, Optim, Published, Recipe, Run, Schedule
from segcore.recipe.protocols import (
    ADE20K_MEMORYNET,
    CITYSCAPES_MEMORYNET,
    COCO_STUFF_10K_MEMORYNET,
    FIVE_RATIOS,
    LIP,
    Fragment,
)

_LOSS = Loss(average="valid")
_WINDOWS = {"crop": (512, 512), "stride": (341, 341)}
"""Of HRNet under --aug-test and of ViT always."""


class _Training(NamedTuple):
    """What the rows of the results table have beside network and data set.

    Attributes:
        batch: images per step on all processes.
        epochs: passes over the images.
        iterations: steps of the published run; its 8 processes padded the data set to a multiple of 8.
        lr: at the start; it falls to a hundredth.
        decay: weight decay of all parameters.
    """

    batch: int
    epochs: int
    iterations: int
    lr: float
    decay: float


def _recipe(fragment: Fragment, model: MemoryNetModel, training: _Training, published: Published) -> Recipe:
    is_transformer = model.levels == "layers"
    return Recipe(
        model=model,
        data=replace(fragment.data, batch=training.batch),
        augment=fragment.augment,
        loss=_LOSS,
        optim=Optim(
            kind="sgd",
            lr=training.lr,
            weight_decay=training.decay,
            lr_mult={"backbone_net": 0.1} if is_transformer else {},
        ),
        schedule=Schedule(
            iterations=training.iterations,
            epochs=training.epochs,
            power=0.9,
            min_lr=0.01 * training.lr,
            family="S",
        ),
        evaluate=fragment.evaluate,
        run=Run(keep=1),
        published=published,
    )


def _figures(miou: float | None, miou_ms: float, measured: float | None, params: float, note: str = "") -> Published:
    """Return published figures; `measured` is what the authors' later release measured with the same weights."""
    again = "" if measured in (None, miou_ms) else f"measured again later: {measured:.2f} ms + flip"
    text = "; ".join(part for part in (again, note) if part)
    return Published(miou=miou, miou_ms=miou_ms, params=params, note=text)


def _ade20k(name: str, epochs: int, iterations: int, lr: float, decay: float = 5e-4) -> Recipe:
    model = replace(_MODELS[name], momentum_lr=lr, consistency_loss=1.0)
    fragment = ADE20K_MEMORYNET
    if name == "vitl":
        model = replace(model, dilations=(1, 6, 12, 18))
        fragment = fragment.slide(341, probabilities=True)
    elif name == "hrnet":
        fragment = fragment.testing(aug_mode="slide", **_WINDOWS)
    return _recipe(fragment, model, _Training(16, epochs, iterations, lr, decay), _ADE20K_FIGURES[name])


def _coco_stuff_10k(name: str, decay: float = 1e-4) -> Recipe:
    model = replace(_MODELS[name], momentum_lr=0.0009)
    training = _Training(16, 110, 61_820, 0.001, decay)
    fragment = COCO_STUFF_10K_MEMORYNET
    if name == "vitl":
        fragment = fragment.slide(341, probabilities=True)
    elif name != "r101":
        fragment = fragment.testing(aug_ratios=FIVE_RATIOS)
    if name == "hrnet":
        fragment = fragment.testing(aug_mode="slide", **_WINDOWS)
    recipe = _recipe(fragment, model, training, _COCO_STUFF_FIGURES[name])
    if name == "s101":
        schedule = replace(recipe.schedule, epochs=150, iterations=42_150, min_lr=1e-4)
        return replace(recipe, data=replace(recipe.data, batch=32), schedule=schedule)
    return recipe


def _cityscapes(name: str, epochs: int, iterations: int) -> Recipe:
    model = replace(_MODELS[name], momentum_lr=0.009, reduction=name == "hrnet")
    # windows are the later multi-scale setting; the first release tested single scale on whole images, on logits
    fragment = CITYSCAPES_MEMORYNET.testing(mode="whole", probabilities=False, aug_mode="slide")
    return _recipe(fragment, model, _Training(16, epochs, iterations, 0.01, 5e-4), _CITYSCAPES_FIGURES[name])


def _lip(name: str, batch: int, iterations: int, lr: float) -> Recipe:
    activation = "LeakyReLU" if name in ("r50", "r101") else "ReLU"
    model = replace(_MODELS[name], momentum_lr=lr, activation=activation, reduction=name == "hrnet")
    # steps, not epochs: the 8 published processes padded 30462 images to 30464, one step more per epoch of 32
    return _recipe(LIP, model, _Training(batch, 0, iterations, lr, 5e-4), _LIP_FIGURES[name])


_MODELS = {"r50": R50, "r101": R101, "s101": S101, "hrnet": HRNET_W48, "vitl": VIT_L}

_ADE20K_FIGURES = {
    "r50": _figures(44.39, 45.95, 45.97, 91.41),
    "r101": _figures(45.66, 47.22, 47.27, 110.40),
    "s101": _figures(46.63, 47.36, 47.39, 114.11),
    "hrnet": _figures(45.79, 47.34, 47.46, 102.57),
    "vitl": _figures(49.73, 50.99, None, 368.79, "measured again later: 50.08 single scale, 51.63 ms + flip"),
}
_COCO_STUFF_FIGURES = {
    "r50": _figures(38.84, 39.68, 39.78, 91.46),
    "r101": _figures(39.84, 41.49, 41.52, 110.45),
    "s101": _figures(41.18, 42.15, 42.38, 114.16),
    "hrnet": _figures(39.77, 41.35, 41.48, 102.61),
    "vitl": _figures(
        44.01, 45.23, None, 368.68, "measured again later: 44.27 single scale, 45.50 ms + flip; dilations: see README"
    ),
}
_CITYSCAPES_FIGURES = {
    "r50": _figures(None, 79.90, 79.97, 91.21, "test server"),
    "r101": _figures(None, 82.03, 82.10, 110.20, "test server"),
    "s101": _figures(None, 81.59, 81.51, 113.91, "test server"),
    "hrnet": _figures(None, 82.55, 82.54, 107.11, "test server"),
}
_LIP_FIGURES = {
    "r50": _figures(53.73, 54.08, 54.08, 91.21, "flip only"),
    "r101": _figures(55.02, 55.42, 55.42, 110.20, "flip only"),
    "s101": _figures(56.21, 56.34, 56.34, 113.91, "flip only"),
    "hrnet": _figures(56.40, 56.99, 56.99, 107.11, "flip only"),
}

_SMALL = MemoryNetModel(
    backbone="efficientformerv2_s0",
    pretrained=False,
    backbone_norm="batch",
    levels="concatenated",
    reduction=True,
    dilations=(1, 6, 12),
    width=96,
    attention_width=48,
    auxiliary=False,
    momentum_lr=2e-3,
    consistency_loss=1.0,
)

RECIPES: dict[str, Recipe] = {
    "r50-ade20k": _ade20k("r50", 130, 164_190, 0.01),
    "r101-ade20k": _ade20k("r101", 130, 164_190, 0.01),
    "s101-ade20k": _ade20k("s101", 180, 227_340, 0.004),
    "hrnet-ade20k": _ade20k("hrnet", 180, 227_340, 0.004),
    "vitl-ade20k": _ade20k("vitl", 130, 164_190, 0.01, decay=0.0),
    "r50-coco-stuff-10k": _coco_stuff_10k("r50"),
    "r101-coco-stuff-10k": _coco_stuff_10k("r101"),
    "s101-coco-stuff-10k": _coco_stuff_10k("s101", decay=5e-4),
    "hrnet-coco-stuff-10k": _coco_stuff_10k("hrnet"),
    "vitl-coco-stuff-10k": _coco_stuff_10k("vitl", decay=0.0),
    "r50-cityscapes": _cityscapes("r50", 440, 95_480),
    "r101-cityscapes": _cityscapes("r101", 440, 95_480),
    "s101-cityscapes": _cityscapes("s101", 500, 108_500),
    "hrnet-cityscapes": _cityscapes("hrnet", 500, 108_500),
    "r50-lip": _lip("r50", 32, 142_800, 0.01),
    "r101-lip": _lip("r101", 32, 142_800, 0.01),
    "s101-lip": _lip("s101", 40, 114_150, 0.007),
    "hrnet-lip": _lip("hrnet", 40, 114_150, 0.007),
    "toy": Recipe(
        model=_SMALL,
        data=Data(dataset="toy", batch=8, workers=1, image_size=(192, 256), test_split="test"),
        augment=Augment(family="S", scale=(256, 192), ratio=(0.75, 1.5), crop=(160, 224)),
        loss=_LOSS,
        optim=Optim(lr=2e-3, weight_decay=0.01),
        schedule=Schedule(iterations=700, family="S", warmup=20, warmup_ratio=1e-2),
        evaluate=Evaluate(family="S", scale=(256, 192)),
        run=Run(log_interval=20, eval_interval=350, save_interval=350),
        published=Published(note="generated scenes, from scratch; the demo"),
    ),
    "camvid": Recipe(
        model=replace(_SMALL, width=128, attention_width=64, momentum_lr=1.5e-3),
        data=Data(dataset="camvid", batch=8, workers=1, test_split="test"),
        augment=Augment(family="S", scale=(480, 360), ratio=(0.75, 1.5), crop=(224, 320)),
        loss=_LOSS,
        optim=Optim(lr=1.5e-3, weight_decay=0.01),
        schedule=Schedule(iterations=1500, family="S", warmup=100, warmup_ratio=1e-2),
        evaluate=Evaluate(family="S", scale=(480, 360)),
        run=Run(log_interval=50, eval_interval=500, save_interval=500),
        published=Published(note="11 classes, from scratch"),
    ),
}

PAPER = paper_of_package(
    "memorynet",
    title="MemoryNet: Mining Contextual Information Beyond Image for Semantic Segmentation (ICCV 2021)",
    model_class=MemoryNetModel,
    recipes=RECIPES,
    report=Later("memorynet.inspection_picture:report_sections"),
)
