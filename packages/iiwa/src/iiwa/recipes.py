"""One recipe per released configuration of IIWA (iiwa/PAPER 5), and two that run anywhere.

iiwa-train s-ade20k --run.data ADEChallengeData2016      published: 48.3 % mIoU on the validation images
iiwa-train toy                                           generated scenes, in minutes on two CPU cores

Cityscapes is trained in two stages; the second starts from the first one's weights:

iiwa-train s-cityscapes-coarse --run.data CITYSCAPES
iiwa-train s-cityscapes --run.data CITYSCAPES --load-from work_dirs/iiwa-s-cityscapes-coarse/last.safetensors
"""

from __future__ import annotations

from dataclasses import replace

from iiwa.options import IIWA_B, IIWA_L, IIWA_S, IIWAModel
from segcore.paper import paper_of_package
from segcore.recipe import Augment, Data, Evaluate, Loss, Optim, Published, Recipe, Run, Schedule
from segcore.recipe.protocols import (
    ADE20K_512,
    ADE20K_576,
    CITYSCAPES,
    CITYSCAPES_COARSE,
    CITYSCAPES_SERVER,
    PASCAL_CONTEXT_59,
    Fragment,
)

# fmt: off
_CITYSCAPES_WEIGHTS = (
    0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023,
    0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507,
)
# fmt: on
_OHEM = Loss(ohem=True, ohem_threshold=0.7, ohem_min_kept=100_000)
_OHEM_CITYSCAPES = replace(_OHEM, class_weight=_CITYSCAPES_WEIGHTS)
_SMALL_LOSS = replace(_OHEM, ohem_min_kept=2000, dice=1.0)  # dice: poles and persons are few pixels
_NO_DECAY = {"norm": 0.0, "absolute_pos_embed": 0.0, "relative_position_bias_table": 0.0}


def _recipe(
    fragment: Fragment,
    model: IIWAModel,
    schedule: Schedule,
    *,
    batch: int,
    backbone_lr: float = 1.0,
    loss: Loss = _OHEM,
    eval_interval: int = 0,
    published: Published,
) -> Recipe:
    """Return a published recipe; a tenth of the run lies between validations unless said otherwise.

    Where the backbone has its own learning rate, the key "backbone" also takes its norms out of the rule for norms:
    they decay; its bias tables keep the full rate (iiwa/PAPER 5).
    """
    interval = eval_interval or schedule.iterations // 10
    optim = Optim(lr=6e-5, weight_decay=0.01, decay_mult=_NO_DECAY)
    return Recipe(
        model=model,
        data=replace(fragment.data, batch=batch),
        augment=fragment.augment,
        loss=loss,
        optim=optim if backbone_lr == 1 else replace(optim, lr_mult={"backbone": backbone_lr}),
        schedule=schedule,
        evaluate=fragment.evaluate,
        run=Run(eval_interval=interval, save_interval=interval, keep=1),
        published=published,
    )


def _schedule(iterations: int, warmup: int, warmup_ratio: float, power: float) -> Schedule:
    return Schedule(iterations=iterations, warmup=warmup, warmup_ratio=warmup_ratio, power=power)


_ADE = _schedule(160_000, 1500, 1e-7, 0.95)
_ADE_576 = _schedule(160_000, 1500, 1e-7, 0.96)
_CITY = _schedule(80_000, 1000, 1e-6, 0.96)
_PASCAL = _schedule(40_000, 750, 1e-6, 0.96)

_WINDOWS_576 = {"fusion_window": (6, 6), "decoder_window": (6, 6)}
_WINDOWS_CITY = {"fusion_window": (4, 8), "decoder_window": (4, 8)}
_S_CITY = replace(IIWA_S, **_WINDOWS_CITY)
_B_CITY = replace(IIWA_B, **_WINDOWS_CITY)

_ADE_SLIDE = ADE20K_512.slide(384)
_ADE_576_SLIDE = ADE20K_576.slide(384)
_CITY_STRIDE = (256, 512)
_PASCAL_SLIDE = PASCAL_CONTEXT_59.slide(320)

_README = "project README"
_CORRECTED = "the released config carries Swin-L widths with Swin-B weights: Swin-B widths here, the rest as released"
_FIRST_STAGE = "first stage, 19998 coarse and 2975 fine images: no result published"
_FROM_S = "starts from s-cityscapes-coarse: --load-from its last.safetensors; multi-scale + flip"
_FROM_B = "starts from b-cityscapes-coarse: --load-from its last.safetensors; multi-scale + flip"

_TINY = IIWAModel(
    backbone="resnet10t",
    pretrained=False,
    backbone_norm="batch",
    output_stride=8,
    fusion_heads=(4, 8, 8),
    fusion_dropout=0.0,
    embed_dim=96,
    query_dim=96,
    decoder_depth=2,
    decoder_heads=4,
    decoder_window=(4, 4),
    decoder_drop_path=0.0,
)
"""A network that learns from scratch in minutes; a Swin of this cost learns too slowly without ImageNet."""

RECIPES: dict[str, Recipe] = {
    "s-ade20k": _recipe(_ADE_SLIDE, IIWA_S, _ADE, batch=16, published=Published(miou=48.30, note=_README)),
    "b-ade20k": _recipe(
        _ADE_SLIDE,
        IIWA_B,
        _ADE,
        batch=16,
        backbone_lr=0.3,
        published=Published(miou=51.85, note=f"{_README}; {_CORRECTED}"),
    ),
    "b-ade20k-576": _recipe(
        _ADE_576_SLIDE,
        replace(IIWA_B, **_WINDOWS_576),
        _ADE_576,
        batch=16,
        backbone_lr=0.2,
        published=Published(note=f"no result published; {_CORRECTED}"),
    ),
    "l-ade20k": _recipe(
        ADE20K_512,
        IIWA_L,
        replace(_ADE, warmup_ratio=1e-6),
        batch=8,
        backbone_lr=0.2,
        published=Published(miou=53.20, note=_README),
    ),
    "l-ade20k-576": _recipe(
        _ADE_576_SLIDE,
        replace(IIWA_L, **_WINDOWS_576),
        _ADE_576,
        batch=8,
        backbone_lr=0.2,
        published=Published(note="no result published"),
    ),
    "s-cityscapes-coarse": _recipe(
        CITYSCAPES_COARSE,
        replace(_S_CITY, decoder_dropout=0.1),
        replace(_CITY, warmup=1500),
        batch=16,
        loss=_OHEM_CITYSCAPES,
        published=Published(note=_FIRST_STAGE),
    ),
    "s-cityscapes": _recipe(
        CITYSCAPES.slide(_CITY_STRIDE),
        _S_CITY,
        _CITY,
        batch=16,
        loss=_OHEM_CITYSCAPES,
        published=Published(miou_ms=83.1, note=f"{_README}; {_FROM_S}"),
    ),
    "s-cityscapes-test": _recipe(
        CITYSCAPES_SERVER.slide(_CITY_STRIDE),
        _S_CITY,
        _CITY,
        batch=16,
        loss=_OHEM_CITYSCAPES,
        published=Published(miou_ms=82.5, note=f"{_README}; test server; {_FROM_S}"),
    ),
    "b-cityscapes-coarse": _recipe(
        CITYSCAPES_COARSE.slide(_CITY_STRIDE),
        _B_CITY,
        _CITY,
        batch=16,
        backbone_lr=0.2,
        loss=_OHEM_CITYSCAPES,
        published=Published(note=_FIRST_STAGE),
    ),
    "b-cityscapes": _recipe(
        CITYSCAPES.slide(_CITY_STRIDE),
        replace(_B_CITY, decoder_dropout=0.1),
        _CITY,
        batch=16,
        backbone_lr=0.2,
        loss=_OHEM_CITYSCAPES,
        published=Published(miou_ms=84.0, note=f"{_README}; {_FROM_B}"),
    ),
    "b-cityscapes-test": _recipe(
        CITYSCAPES_SERVER.slide(_CITY_STRIDE),
        _B_CITY,
        _CITY,
        batch=16,
        backbone_lr=0.2,
        loss=_OHEM_CITYSCAPES,
        published=Published(miou_ms=83.2, note=f"{_README}; test server; {_FROM_B}"),
    ),
    "s-pascal-context-59": _recipe(
        _PASCAL_SLIDE,
        replace(IIWA_S, decoder_window=(6, 6), decoder_dropout=0.1),
        _PASCAL,
        batch=32,
        eval_interval=8000,
        published=Published(miou=55.8, note=_README),
    ),
    "b-pascal-context-59": _recipe(
        _PASCAL_SLIDE,
        replace(IIWA_B, decoder_window=(6, 6)),
        _PASCAL,
        batch=24,
        backbone_lr=0.2,
        eval_interval=8000,
        published=Published(miou=62.9, note=f"{_README} and paper (an early README said 62.8)"),
    ),
    "toy": Recipe(
        model=_TINY,
        data=Data(dataset="toy", batch=8, workers=1, image_size=(192, 256), test_split="test"),
        augment=Augment(scale=(256, 192), ratio=(0.75, 1.25), crop=(128, 192)),
        loss=_SMALL_LOSS,
        optim=Optim(lr=2e-3, weight_decay=0.01, decay_mult=_NO_DECAY),
        schedule=Schedule(iterations=800, warmup=40, warmup_ratio=1e-2),
        evaluate=Evaluate(scale=(256, 192)),
        run=Run(log_interval=20, eval_interval=200, save_interval=400),
        published=Published(note="generated scenes, from scratch; the demo"),
    ),
    "camvid": Recipe(
        model=_TINY,
        data=Data(dataset="camvid", batch=8, workers=1, test_split="test"),
        augment=Augment(scale=(480, 360), ratio=(0.75, 1.5), crop=(192, 256)),
        loss=_SMALL_LOSS,
        optim=Optim(lr=2e-3, weight_decay=0.01, decay_mult=_NO_DECAY),
        schedule=Schedule(iterations=1000, warmup=100, warmup_ratio=1e-2),
        evaluate=Evaluate(scale=(480, 360)),
        run=Run(log_interval=50, eval_interval=250, save_interval=250),
        published=Published(note="11 classes, from scratch"),
    ),
}

PAPER = paper_of_package(
    "iiwa",
    title="IIWA: Intra- and Inter-Window Attention for semantic segmentation",
    model_class=IIWAModel,
    recipes=RECIPES,
)
