"""One recipe per row of UN-EPT's results table (unept/PAPER 5), and two that run anywhere.

unept-train deit-ade20k --run.data ADEChallengeData2016    expects 50.5 % mIoU, multi-scale + flip
unept-train toy                                            generated scenes, in minutes on two CPU cores
"""

from __future__ import annotations

from dataclasses import replace

from segcore.paper import Later, paper_of_package
from segcore.recipe import Augment, Data, Evaluate, Optim, Published, Recipe, Run, Schedule
from segcore.recipe.protocols import ADE20K_480, PASCAL_CONTEXT_60, Fragment
from unept.options import UNEPT_DEIT, UNEPT_R50, UNEPTModel

# every parameter decays, norms, biases and embeddings too: as published
_OPTIM = Optim(lr=1e-4, weight_decay=1e-4, lr_mult={"backbone": 0.1})
_STRIDE = 160  # between test windows of 480


def _published(fragment: Fragment, model: UNEPTModel, published: Published) -> Recipe:
    windows = fragment.slide(_STRIDE, pad_window=True)
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

RECIPES: dict[str, Recipe] = {
    "r50-ade20k": _published(ADE20K_480, UNEPT_R50, Published(miou_ms=46.1, params=32.4, note=_NOTE.format("7.0"))),
    "deit-ade20k": _published(ADE20K_480, UNEPT_DEIT, Published(miou_ms=50.5, params=94.8, note=_NOTE.format("8.5"))),
    "deit-pascal-context-60": _published(
        PASCAL_CONTEXT_60, UNEPT_DEIT, Published(miou_ms=55.2, params=94.8, note=_NOTE.format("8.5"))
    ),
    "toy": Recipe(
        model=replace(_SMALL, window=192, resize_queries=True),
        data=Data(dataset="toy", batch=8, workers=1, image_size=(192, 256), test_split="test"),
        augment=Augment(scale=(256, 192), ratio=(0.75, 1.5), crop=(192, 192)),
        optim=Optim(lr=2e-3, weight_decay=1e-2),
        schedule=Schedule(iterations=750, warmup=20, warmup_ratio=1e-2),
        evaluate=Evaluate(mode="slide", crop=(192, 192), stride=(64, 64), pad_window=True, scale=(256, 192)),
        run=Run(log_interval=20, eval_interval=150, save_interval=300),
        published=Published(note="generated scenes, from scratch; windows of 192 pixels"),
    ),
    "camvid": Recipe(
        model=replace(_SMALL, width=128, window=224),
        data=Data(dataset="camvid", batch=8, workers=1, test_split="test"),
        augment=Augment(scale=(480, 360), ratio=(0.75, 1.5), crop=(224, 224)),
        optim=Optim(lr=1e-3, weight_decay=1e-2),
        schedule=Schedule(iterations=1200, warmup=100, warmup_ratio=1e-2),
        evaluate=Evaluate(mode="slide", crop=(224, 224), stride=(136, 128), pad_window=True, scale=(480, 360)),
        run=Run(log_interval=50, eval_interval=300, save_interval=300),
        published=Published(note="11 classes, from scratch; windows of 224 pixels"),
    ),
}

PAPER = paper_of_package(
    "unept",
    title="UN-EPT: A Unified Efficient Pyramid Transformer for Semantic Segmentation (ICCV 2021 workshops)",
    model_class=UNEPTModel,
    recipes=RECIPES,
    target_maps=Later("unept.boundary_source:boundary_source"),
)
