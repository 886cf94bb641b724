"""MemoryNet's options, its published networks, and a recipe per row of its results tables (memorynet/PAPER 5).

memorynet-train r50-ade20k --run.data ADEChallengeData2016      expects 44.39 % mIoU on the validation images
memorynet-train toy                                             generated scenes, in minutes on two CPU cores
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, Self

from segcore.errors import check
from segcore.paper import Later, paper_of_package
from segcore.recipe import Loss, Model, Optim, Published, Recipe, Run, Schedule
from segcore.recipe.protocols import (
    ADE20K_MEMORYNET,
    CAMVID,
    CITYSCAPES_MEMORYNET,
    COCO_STUFF_10K_MEMORYNET,
    FIVE_RATIOS,
    LIP,
    OWN,
    TOY,
    Fragment,
)
from segcore.recipe.ranges import AT_LEAST_1, BELOW_1, NOT_NEGATIVE, SHARE, check_ranges

Activation = Literal["ReLU", "LeakyReLU"]
Strategy = Literal["cosine_similarity", "mean"]
DILATIONS = (1, 12, 24, 36)
"""Of the published DeepLabV3 context; ViT on ADE20K has 1, 6, 12 and 18."""


@dataclass(frozen=True, kw_only=True)
class MemorySettings:
    """How a memory learns, how pixels read it, and how the head around it is trained: all that any network needs."""

    slots: Annotated[int, AT_LEAST_1] = 1
    """Memory rows per class (S)."""
    read: Literal["soft", "hard"] = "soft"
    """Mix memory rows by the first prediction's probabilities, or take the most probable class's row."""
    strategy: Strategy = "cosine_similarity"
    """Weight of a pixel in its class's update: its distance from the row, or the same for all (one slot only)."""
    momentum: Annotated[float, SHARE] = 0.9
    """Share of a row that a step replaces, at the learning rate `momentum_lr`."""
    momentum_lr: Annotated[float, NOT_NEGATIVE] = 0.0
    """The momentum follows the learning rate: momentum x lr / momentum_lr; 0 keeps it constant."""
    average: Literal["ranks", "joint"] = "ranks"
    """Several processes. ranks: each updates its own copy, then they are averaged (published). joint: exactly the
    update that one process makes with all images."""
    gradient: Literal["updated", "clean"] = "updated"
    """Gradient of the reading by the class probabilities, multiplied by the memory after this step's update
    (published), or by the memory that was read."""
    attention_width: Annotated[int, AT_LEAST_1] = 256
    """Channels of queries, keys and values."""
    dropout: Annotated[float, BELOW_1] = 0.1
    """Probability that a channel is dropped before a classifier."""
    activation: Activation = "ReLU"
    """After the norms of the heads (LeakyReLU: ResNet on LIP)."""
    first_loss: Annotated[float, NOT_NEGATIVE] = 0.4
    """Weight of the first prediction's loss."""
    consistency_loss: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the loss of the final classifier on the memory rows themselves, from the second epoch on."""

    def __post_init__(self) -> None:
        check_ranges(self, "model")
        check(
            self.strategy == "cosine_similarity" or self.slots == 1,
            f"--model.strategy mean knows no nearest slot: it needs --model.slots 1, got {self.slots}",
        )

    def momentum_at(self, lr: float) -> float:
        """Return the share of a row that a step at this learning rate replaces (of the schedule, before any factor)."""
        return self.momentum / self.momentum_lr * lr if self.momentum_lr > 0 else self.momentum


@dataclass(frozen=True, kw_only=True)
class MemoryNetModel(MemorySettings, Model):
    """MemoryNet on any backbone with at least two feature levels."""

    training_only: ClassVar[tuple[str, ...]] = (
        "first_loss",
        "momentum",
        "momentum_lr",
        "average",
        "gradient",
        "consistency_loss",
    )

    levels: Literal["last", "concatenated", "layers"] = "last"
    """What the head sees. last: the deepest map, the one before it feeds the auxiliary head. concatenated: all maps at
    the finest size (HRNet). layers: normalized maps of one size (ViT), all but the last feed auxiliary heads."""
    output_stride: Literal[8, 16, 32] = 32
    """Largest stride of the maps of a ResNet or its relatives, the later ones dilated (published: 8)."""
    transformer_layers: Annotated[tuple[int, ...], AT_LEAST_1] = ()
    """Layers of a plain transformer that give maps, from 1 (ViT-L: 10, 15, 20, 24)."""
    image_size: Annotated[int, NOT_NEGATIVE] = 0
    """Image side that a plain transformer's position table is for (published: 512); 0 leaves timm's."""
    reduction: bool = False
    """concatenated: halve the map before the head (HRNet on LIP and Cityscapes)."""
    context: Literal["aspp", "ppm", "ocr", "none"] = "aspp"
    """Context within the image: DeepLabV3 (all releases), PSPNet, OCRNet (our definition), or none (FCN)."""
    dilations: Annotated[tuple[int, ...], AT_LEAST_1] = DILATIONS
    """aspp: one branch per dilation; no file tells them."""
    width: Annotated[int, AT_LEAST_1] = 512
    """Channels of pixel features, context and memory (C)."""
    auxiliary: bool = True
    """Auxiliary heads, which only training uses (HRNet: none)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(len(self.dilations) > 0, "--model.dilations needs at least one number")
        check(
            self.levels == "concatenated" or not self.reduction,
            f"--model.reduction halves concatenated maps; it needs --model.levels concatenated, got {self.levels}",
        )

    def suited_to(self, crop: tuple[int, int], lr: float) -> Self:
        """Return the same network, whose momentum follows another learning rate where it follows one."""
        return replace(self, momentum_lr=lr) if self.momentum_lr > 0 else self


R50 = MemoryNetModel(backbone="resnet50c", output_stride=8)
R101 = MemoryNetModel(backbone="resnet101c", output_stride=8)
S101 = MemoryNetModel(backbone="resnest101e", output_stride=8)
HRNET_W48 = MemoryNetModel(backbone="hrnet_w48", levels="concatenated", auxiliary=False)
VIT_L = MemoryNetModel(
    backbone="vit_large_patch16_384", levels="layers", transformer_layers=(10, 15, 20, 24), image_size=512
)

_LOSS = Loss(average="valid")
_WINDOWS = {"crop": (512, 512), "stride": (341, 341)}
"""Of HRNet under --aug-test and of ViT always."""


def _recipe(
    fragment: Fragment,
    model: MemoryNetModel,
    published: Published,
    *,
    iterations: int,
    lr: float,
    epochs: int = 0,
    batch: int = 16,
    decay: float = 5e-4,
) -> Recipe:
    """Return a published recipe, trained by SGD.

    Args:
        iterations: steps of the published run; its 8 processes padded the data set to a multiple of 8.
        lr: at the start; it falls to a hundredth.
        epochs: passes over the images, which then decide; 0 counts steps.
        batch: images per step on all processes.
        decay: weight decay of all parameters.
    """
    lr_mult = {"backbone_net": 0.1} if model.levels == "layers" else {}
    return Recipe(
        model=model,
        data=replace(fragment.data, batch=batch),
        augment=fragment.augment,
        loss=_LOSS,
        optim=Optim(kind="sgd", lr=lr, weight_decay=decay, lr_mult=lr_mult),
        schedule=Schedule(iterations=iterations, epochs=epochs, power=0.9, min_lr=0.01 * lr, family="S"),
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
    published = _ADE20K_FIGURES[name]
    return _recipe(fragment, model, published, epochs=epochs, iterations=iterations, lr=lr, decay=decay)


def _coco_stuff_10k(name: str, decay: float = 1e-4) -> Recipe:
    model = replace(_MODELS[name], momentum_lr=0.0009)
    fragment = COCO_STUFF_10K_MEMORYNET
    if name == "vitl":
        fragment = fragment.slide(341, probabilities=True)
    elif name != "r101":
        fragment = fragment.testing(aug_ratios=FIVE_RATIOS)
    if name == "hrnet":
        fragment = fragment.testing(aug_mode="slide", **_WINDOWS)
    recipe = _recipe(fragment, model, _COCO_STUFF_FIGURES[name], epochs=110, iterations=61_820, lr=0.001, decay=decay)
    if name == "s101":
        schedule = replace(recipe.schedule, epochs=150, iterations=42_150, min_lr=1e-4)
        return replace(recipe, data=replace(recipe.data, batch=32), schedule=schedule)
    return recipe


def _cityscapes(name: str, epochs: int, iterations: int) -> Recipe:
    model = replace(_MODELS[name], momentum_lr=0.009, reduction=name == "hrnet")
    # windows are the later multi-scale setting; the first release tested single scale on whole images, on logits
    fragment = CITYSCAPES_MEMORYNET.testing(mode="whole", probabilities=False, aug_mode="slide")
    return _recipe(fragment, model, _CITYSCAPES_FIGURES[name], epochs=epochs, iterations=iterations, lr=0.01)


def _lip(name: str, batch: int, iterations: int, lr: float) -> Recipe:
    activation = "LeakyReLU" if name in ("r50", "r101") else "ReLU"
    model = replace(_MODELS[name], momentum_lr=lr, activation=activation, reduction=name == "hrnet")
    # steps, not epochs: the 8 published processes padded 30462 images to 30464, one step more per epoch of 32
    return _recipe(LIP, model, _LIP_FIGURES[name], iterations=iterations, lr=lr, batch=batch)


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
    "toy": TOY.family_s().from_scratch(_SMALL, Optim(lr=2e-3), iterations=700, eval_interval=350, loss=_LOSS),
    "camvid": CAMVID.family_s().from_scratch(
        replace(_SMALL, width=128, attention_width=64, momentum_lr=1.5e-3),
        Optim(lr=1.5e-3),
        iterations=1500,
        eval_interval=500,
        loss=_LOSS,
    ),
    "own": OWN.family_s().from_scratch(
        replace(
            _SMALL,
            backbone="tf_efficientnet_lite0",
            pretrained=True,
            width=128,
            attention_width=64,
            momentum_lr=1e-3,
        ),
        Optim(lr=1e-3, lr_mult={"backbone_net": 0.3}),
        iterations=900,
        eval_interval=180,
        loss=_LOSS,
    ),
}

PAPER = paper_of_package(
    "memorynet",
    title="MemoryNet: Mining Contextual Information Beyond Image for Semantic Segmentation (ICCV 2021)",
    model_class=MemoryNetModel,
    recipes=RECIPES,
    proven=(
        "On the same weights every stage of the network equals the published code's, within 1e-4 of its standard "
        "deviation; a training step in float64, the memory after it included, within 1e-6. The object context is "
        "a reconstruction."
    ),
    report=Later("memorynet.inspection.page:report_sections"),
)
