"""UN-EPT's options, its two published networks, and a recipe per row of its results table (unept/PAPER 5).

unept-train deit-ade20k --run.data ADEChallengeData2016    expects 50.5 % mIoU, multi-scale + flip
unept-train toy                                            generated scenes, in minutes on two CPU cores
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, Self

from segcore.errors import check
from segcore.paper import Later, paper_of_package
from segcore.recipe import Model, Optim, Published, Recipe, Run, Schedule
from segcore.recipe.protocols import ADE20K_480, CAMVID, OWN, PASCAL_CONTEXT_60, TOY, Fragment
from segcore.recipe.ranges import AT_LEAST_1, BELOW_1

STRIDE = 8
"""Image pixels per query along each axis: three convolutions of stride 2 make the queries."""


@dataclass(frozen=True, kw_only=True)
class UNEPTModel(Model):
    """UN-EPT on any backbone with at least `levels` feature levels; the last ones are the pyramid."""

    # no tensor depends on them, and a test may want other sizes than the training
    training_only: ClassVar[tuple[str, ...]] = ("mirror_angles", "void_is_boundary", "resize_queries")

    window: Annotated[int, AT_LEAST_1] = 480
    """Side of the square input, pixels: training crop and test window. The query table has (window / 8)^2 rows."""
    resize_queries: bool = False
    """Extension: stretch the query table, so that inputs of any size are taken. Published: `window` only."""
    levels: Annotated[int, AT_LEAST_1] = 3
    """Feature levels of the pyramid (L): the backbone's last ones."""
    width: Annotated[int, AT_LEAST_1] = 256
    """Channels of queries, tokens and spatial branch (C)."""
    heads: Annotated[int, AT_LEAST_1] = 8
    """Attention heads (M)."""
    points: Annotated[int, AT_LEAST_1] = 16
    """Samples per head and level of the deformable attention (K)."""
    feedforward: Annotated[int, AT_LEAST_1] = 2048
    """Hidden channels of the encoder's and the decoder's feed-forward layers."""
    encoder_layers: Annotated[int, AT_LEAST_1] = 2
    """Layers that attend within the pyramid."""
    decoder_layers: Annotated[int, AT_LEAST_1] = 2
    """Layers whose queries, one per stride-8 pixel, attend to the pyramid."""
    dropout: Annotated[float, BELOW_1] = 0.1
    """Dropout probability in the context branch."""
    self_attention: Literal["batch", "value", "pixels"] = "batch"
    """Keys of a query in training. batch: its pixel in all images (published); value: itself; pixels: its image."""
    mirror_angles: bool = False
    """Mirror the boundary directions where the image is mirrored. Published: east and west stay as they were."""
    void_is_boundary: bool = True
    """Unlabeled pixels take part in the boundary losses, at distance 0 as published; off leaves them out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.window % STRIDE == 0, f"--model.window must be a multiple of {STRIDE}, got {self.window}")
        check(
            self.width % 4 == 0 and self.width % self.heads == 0,
            f"--model.width must be a multiple of 4 and of --model.heads {self.heads}, got {self.width}",
        )

    def suited_to(self, crop: tuple[int, int], lr: float) -> Self:
        """Return the same network with as many queries as a crop has places, stretched to any size."""
        side = max(round(math.sqrt(crop[0] * crop[1]) / STRIDE), 1) * STRIDE
        return replace(self, window=side, resize_queries=True)


UNEPT_R50 = UNEPTModel(backbone="resnet50c")
UNEPT_DEIT = UNEPTModel(backbone="deit_base_distilled_patch16_384")

# every parameter decays, norms, biases and embeddings too: as published
_OPTIM = Optim(lr=1e-4, weight_decay=1e-4, lr_mult={"backbone": 0.1})
_WINDOW_STRIDE = 160  # pixels between test windows of 480


def _published(fragment: Fragment, model: UNEPTModel, published: Published) -> Recipe:
    windows = fragment.slide(_WINDOW_STRIDE, pad_window=True)
    return Recipe(
        model=model,
        data=replace(windows.data, batch=16),
        augment=windows.augment,
        optim=_OPTIM,
        schedule=Schedule(iterations=160_000, kind="step", step=126_000, gamma=0.1),
        evaluate=windows.evaluate,
        run=Run(eval_interval=10_000, save_interval=10_000),
        published=published,
    )


_NOTE = "project README, the released config; memory {} GB per GPU with 2 crops"
_SMALL = UNEPTModel(
    backbone="efficientformerv2_s0",
    pretrained=False,
    backbone_norm="batch",
    width=64,
    heads=4,
    points=4,
    feedforward=256,
    dropout=0.0,
)


def _square(recipe: Recipe) -> Recipe:
    """Return a recipe whose crop and test windows are squares of the shorter side of its crop, and its query table."""
    assert isinstance(recipe.model, UNEPTModel)
    side = min(recipe.augment.crop) // STRIDE * STRIDE
    return replace(
        recipe,
        model=replace(recipe.model, window=side),
        augment=replace(recipe.augment, crop=(side, side)),
        evaluate=replace(recipe.evaluate, crop=(side, side), stride=(side * 5 // 8, side * 5 // 8)),
    )


RECIPES: dict[str, Recipe] = {
    "r50-ade20k": _published(ADE20K_480, UNEPT_R50, Published(miou_ms=46.1, params=32.4, note=_NOTE.format("7.0"))),
    "deit-ade20k": _published(ADE20K_480, UNEPT_DEIT, Published(miou_ms=50.5, params=94.8, note=_NOTE.format("8.5"))),
    "deit-pascal-context-60": _published(
        PASCAL_CONTEXT_60, UNEPT_DEIT, Published(miou_ms=55.2, params=94.8, note=_NOTE.format("8.5"))
    ),
    "toy": replace(TOY, note="generated scenes, from scratch; windows of 192 pixels")
    .training(crop=(192, 192))
    .slide(64, pad_window=True)
    .from_scratch(
        replace(_SMALL, window=192, resize_queries=True),
        Optim(lr=2e-3),
        iterations=750,
        eval_interval=150,
        save_interval=300,
    ),
    "camvid": replace(CAMVID, note="11 classes, from scratch; windows of 224 pixels")
    .training(crop=(224, 224))
    .slide((136, 128), pad_window=True)
    .from_scratch(replace(_SMALL, width=128, window=224), Optim(lr=1e-3), iterations=1200, eval_interval=300),
    "own": _square(
        OWN.slide(200, pad_window=True).from_scratch(
            replace(_SMALL, backbone="tf_efficientnet_lite0", pretrained=True, width=128),
            Optim(lr=1e-3, lr_mult={"backbone": 0.3}),
            iterations=900,
            eval_interval=180,
        )
    ),
}

PAPER = paper_of_package(
    "unept",
    title="UN-EPT: A Unified Efficient Pyramid Transformer for Semantic Segmentation (ICCV 2021 workshops)",
    model_class=UNEPTModel,
    recipes=RECIPES,
    follow_crop=_square,
    proven=(
        "On the same weights the operator, the layers and whole networks equal the published code's, within 1e-4 "
        "of their standard deviation; training losses within 1e-5."
    ),
    target_maps=Later("unept.boundary.source:boundary_source"),
)
