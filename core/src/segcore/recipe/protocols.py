"""The papers' settings of each data set as parts of recipes: crop, scale and test (docs/protocol 2.1 and 3.4).

A fragment holds the training transform and the single-scale test (whole image, family M) of one data set and crop:

    ADE20K_512.slide(384)                     Data, Augment and Evaluate of IIWA's Swin-S and Swin-B
    LIP.family_s(aug_ratios=(1.0,), ...)      the same transforms by MemoryNet's rules
    TOY.from_scratch(model, Optim(...), ...)  a whole recipe that runs anywhere in minutes

Plain data, without torch; what one paper alone changes (batch, schedule, loss) stays in its recipes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Self

from segcore.errors import InputError
from segcore.recipe import Augment, Data, Evaluate, Loss, Model, Optim, Published, Recipe, Run, Schedule

LIP_PAIRS = ((14, 15), (16, 17), (18, 19))
"""Left and right arm, leg and shoe of LIP."""
FIVE_RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5)
"""Multi-scale test of MemoryNet on COCO-Stuff 10k, but for ResNet-101 and ViT."""


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """Data, training transform and test protocol of a recipe."""

    data: Data
    augment: Augment
    evaluate: Evaluate

    def splits(self, train: str, test: str) -> Self:
        """Return the same settings, trained and tested on other splits (several joined with +); val validates."""
        return replace(self, data=replace(self.data, train_split=train, test_split=test))

    def training(self, **changes: Any) -> Self:
        """Return the same settings with other fields of `Augment`."""
        return replace(self, augment=replace(self.augment, **changes))

    def testing(self, **changes: Any) -> Self:
        """Return the same settings with other fields of `Evaluate`."""
        return replace(self, evaluate=replace(self.evaluate, **changes))

    def slide(self, stride: int | tuple[int, int], *, crop: tuple[int, int] = (0, 0), **changes: Any) -> Self:
        """Return the same settings, tested in sliding windows.

        Args:
            stride: pixels, vertical and horizontal (one number for both).
            crop: height and width of a window; (0, 0) takes the training crop.
            changes: further fields of `Evaluate`.
        """
        steps = (stride, stride) if isinstance(stride, int) else stride
        window = crop if min(crop) > 0 else self.augment.crop
        return self.testing(mode="slide", crop=window, stride=steps, **changes)

    def family_s(self, **changes: Any) -> Self:
        """Return the same settings by the rules of family S (MemoryNet): logits, and probabilities under --aug-test.

        Args:
            changes: further fields of `Evaluate`.
        """
        return self.training(family="S").testing(family="S", **{"aug_probabilities": True, **changes})


@dataclass(frozen=True, kw_only=True)
class SmallFragment(Fragment):
    """Settings of a data set on which a small network learns from random weights in minutes.

    Attributes:
        warmup: iterations of linear warmup, from a hundredth of the learning rate.
        log_interval: iterations between log lines.
        note: shown beside the recipe.
    """

    warmup: int
    log_interval: int
    note: str

    def from_scratch(
        self,
        model: Model,
        optim: Optim,
        *,
        iterations: int,
        eval_interval: int,
        save_interval: int = 0,
        loss: Loss | None = None,
    ) -> Recipe:
        """Return the recipe of a short run.

        Args:
            eval_interval: iterations between validations.
            save_interval: iterations between saved states; 0 saves at every validation.
        """
        saving = save_interval or eval_interval
        return Recipe(
            model=model,
            data=self.data,
            augment=self.augment,
            loss=loss or Loss(),
            optim=optim,
            schedule=Schedule(iterations=iterations, family=self.augment.family, warmup=self.warmup, warmup_ratio=1e-2),
            evaluate=self.evaluate,
            run=Run(log_interval=self.log_interval, eval_interval=eval_interval, save_interval=saving),
            published=Published(note=self.note),
        )


def _fragment(
    dataset: str,
    crop: tuple[int, int],
    scale: tuple[int, int],
    *,
    test_split: str = "val",
    train_split: str = "train",
) -> Fragment:
    return Fragment(
        data=Data(dataset=dataset, train_split=train_split, test_split=test_split),
        augment=Augment(scale=scale, ratio=(0.5, 2.0), crop=crop),
        evaluate=Evaluate(scale=scale),
    )


ADE20K_512 = _fragment("ade20k", (512, 512), (2048, 512))
"""CGRSeg (whole, padded to a multiple of 32), IIWA (slide 384; Swin-L whole), MemoryNet (S, whole; ViT slide 341)."""
ADE20K_576 = _fragment("ade20k", (576, 576), (2048, 576))
"""IIWA type 2 (slide 384)."""
ADE20K_480 = _fragment("ade20k", (480, 480), (2048, 512))
"""UN-EPT (slide 160, padded windows)."""
CITYSCAPES = _fragment("cityscapes", (512, 1024), (2048, 1024))
"""IIWA (slide 256x512), ECFD (whole)."""
CITYSCAPES_COARSE = CITYSCAPES.splits("train_extra+train", "val")
"""IIWA's first stage: 19998 coarsely and 2975 finely annotated images, none repeated."""
CITYSCAPES_SERVER = CITYSCAPES.splits("trainval", "test")
"""Trained on 3475 images, submitted to the test server: IIWA type 3; MemoryNet (S, windows 1024 high, 512 wide)."""
BDD100K = _fragment("bdd100k", (512, 1024), (1280, 720))
"""ECFD (whole)."""
PASCAL_CONTEXT_59 = _fragment("pascal_context_59", (480, 480), (520, 520))
"""IIWA, ECFD (slide 320); CGRSeg (whole, resized to a multiple of 32)."""
PASCAL_CONTEXT_60 = _fragment("pascal_context_60", (480, 480), (520, 520))
"""UN-EPT (slide 160, padded windows)."""
COCO_STUFF_10K = _fragment("coco_stuff_10k", (512, 512), (2048, 512), test_split="test")
"""CGRSeg (whole), 171 classes."""
COCO_STUFF_10K_182 = _fragment("coco_stuff_10k_182", (512, 512), (2048, 512), test_split="test")
"""MemoryNet (S, whole; HRNet slide 341 under --aug-test; ViT slide 341)."""
COCO_STUFF_164K = _fragment("coco_stuff_164k", (512, 512), (2048, 512))
"""CGRSeg's base configuration (resized to a multiple of 32); no result was published."""
LIP = Fragment(
    data=Data(dataset="lip"),
    augment=Augment(
        scale=(520, 520),
        keep_ratio=False,
        ratio=(0.75, 1.25),
        crop=(473, 473),
        flip_pairs=LIP_PAIRS,
        rotation=0.6,
        family="S",
    ),
    evaluate=Evaluate(
        family="S",
        scale=(473, 473),
        keep_ratio=False,
        flip_pairs=LIP_PAIRS,
        aug_ratios=(1.0,),
        aug_probabilities=False,
    ),
)
"""MemoryNet (S, whole; flip only, logits)."""

ADE20K_MEMORYNET = ADE20K_512.family_s()
"""ResNet and ResNeSt. HRNet: `testing(aug_mode="slide", ...)`; ViT: `slide(341, probabilities=True)`."""
COCO_STUFF_10K_MEMORYNET = COCO_STUFF_10K_182.family_s()
"""ResNet-101; the others but ViT test with `aug_ratios=FIVE_RATIOS`."""
CITYSCAPES_MEMORYNET = CITYSCAPES_SERVER.family_s().slide(341, crop=(1024, 512), probabilities=True)
"""The window is the transpose of the training crop, as released."""

TOY = SmallFragment(
    data=Data(dataset="toy", batch=8, workers=1, test_split="test"),
    augment=Augment(scale=(256, 192), ratio=(0.75, 1.5), crop=(160, 224)),
    evaluate=Evaluate(scale=(256, 192)),
    warmup=20,
    log_interval=20,
    note="generated scenes, from scratch; the demo",
)
"""Scenes of 192x256 pixels, made while they are read."""
CAMVID = SmallFragment(
    data=Data(dataset="camvid", batch=8, workers=1, test_split="test"),
    augment=Augment(scale=(480, 360), ratio=(0.75, 1.5), crop=(224, 320)),
    evaluate=Evaluate(scale=(480, 360)),
    warmup=100,
    log_interval=50,
    note="11 classes, from scratch",
)

OWN_RECIPE = "own"
"""Name of every paper's recipe for a folder of one's own, whose sizes are taken from the pictures (`data.fitting`)."""
OWN = SmallFragment(
    data=Data(dataset="folder", batch=8, workers=1, test_split="test"),
    augment=Augment(scale=(2048, 512), ratio=(0.75, 1.5), crop=(320, 320)),
    evaluate=Evaluate(scale=(2048, 512)),
    warmup=100,
    log_interval=20,
    note="your images/ and masks/: sizes, crop and iterations by the pictures",
)
"""A few hundred pictures of one's own, from ImageNet weights; what the rule replaces is for pictures of 480x640."""

_BY_DATASET = {
    part.data.dataset: part
    for part in (
        *(
            TOY,
            CAMVID,
            OWN.splits("train", "test"),
            ADE20K_512,
            CITYSCAPES,
            BDD100K,
            PASCAL_CONTEXT_59,
            PASCAL_CONTEXT_60,
        ),
        *(COCO_STUFF_10K, COCO_STUFF_10K_182, COCO_STUFF_164K, LIP),
    )
}


def fragment_of(dataset: str) -> Fragment:
    """Return the settings that heads are compared with on a data set.

    Raises:
        InputError: if there is no such data set.
    """
    if dataset not in _BY_DATASET:
        close = get_close_matches(dataset, _BY_DATASET, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(_BY_DATASET)}"
        raise InputError(f"there is no data set {dataset!r}; {hint}")
    return _BY_DATASET[dataset]
