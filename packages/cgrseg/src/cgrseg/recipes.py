"""CGRSeg's options and variants, one recipe per row of its results tables (cgrseg/PAPER 5), two that run anywhere.

cgrseg-train t-ade20k --run.data ADEChallengeData2016      expects 43.6 % mIoU on the validation images
cgrseg-train toy                                           generated scenes, in minutes on two CPU cores
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from segcore.errors import check
from segcore.paper import paper_of_package
from segcore.recipe import Model, Optim, Published, Recipe, Run, Schedule
from segcore.recipe.protocols import ADE20K_512, CAMVID, COCO_STUFF_10K, OWN, PASCAL_CONTEXT_59, TOY, Fragment
from segcore.recipe.ranges import AT_LEAST_1, BELOW_1


@dataclass(frozen=True, kw_only=True)
class CGRSegModel(Model):
    """CGRSeg on any backbone with at least three feature levels; the last three are used."""

    width: Annotated[int, AT_LEAST_1] = 128
    """Channels of the fused maps (E)."""
    pyramid_modules: Annotated[int, AT_LEAST_1] = 5
    """Rectangular modules of the pyramid context. B: 6 as released, 5 as in the published table."""
    band: Annotated[int, AT_LEAST_1] = 11
    """Length of the band convolutions, odd (L: 9)."""
    dropout: Annotated[float, BELOW_1] = 0.1
    """Probability that a channel is dropped before the classifier."""
    drop_path: Annotated[float, BELOW_1] = 0.0
    """Drop-path rate of the backbone's last block (EfficientFormerV2-S2: 0.02, L: 0.1)."""
    position_tables: Literal["zero", "resampled"] = "zero"
    """EfficientFormerV2: start the position tables at zero (published), or stretch the ImageNet ones."""
    sync_all_norms: bool = False
    """Synchronize the norms inside the rectangular modules, too (published: per GPU)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.band % 2 == 1, f"--model.band must be odd, got {self.band}")


CGRSEG_S0 = CGRSegModel(backbone="efficientformerv2_s0")
CGRSEG_T = CGRSegModel(backbone="efficientformerv2_s1")
CGRSEG_B = CGRSegModel(backbone="efficientformerv2_s2", width=256, pyramid_modules=6, drop_path=0.02)
CGRSEG_L = CGRSegModel(backbone="efficientformerv2_l", width=256, band=9, drop_path=0.1)

# "head" also hits the backbone's talking_head convolutions, and norms called q.1 or bn keep their decay: as published
_OPTIM = Optim(
    lr=1.2e-4, weight_decay=0.01, lr_mult={"head": 10.0}, decay_mult={"absolute_pos_embed": 0.0, "norm": 0.0}
)


def _base(fragment: Fragment, iterations: int) -> Recipe:
    return Recipe(
        model=CGRSEG_T,
        data=replace(fragment.data, batch=16),
        augment=fragment.augment,
        optim=_OPTIM,
        schedule=Schedule(iterations=iterations, warmup=1500, warmup_ratio=1e-6),
        evaluate=fragment.evaluate,
        run=Run(eval_interval=4000, save_interval=4000, keep=1),
    )


_ADE20K = _base(ADE20K_512.testing(pad_divisor=32), 160_000)
# No config was released for the next two: 80k iterations as in a later paper of the same authors (arXiv 2405.06525).
_COCO_STUFF_10K = _base(COCO_STUFF_10K.testing(pad_divisor=32), 80_000)
_PASCAL_CONTEXT_59 = _base(PASCAL_CONTEXT_59.testing(resize_divisor=32), 80_000)
_README = "project README; "
_NO_CONFIG = "no config was released: schedule of a later paper that shares authors, arXiv 2405.06525"
_MS = f"{_NO_CONFIG}; multi-scale + flip, which of 59 or 60 classes is not stated"

_B5 = replace(CGRSEG_B, pyramid_modules=5)
_SMALL = replace(CGRSEG_S0, pretrained=False, backbone_norm="batch")


def _published(base: Recipe, model: CGRSegModel, published: Published) -> Recipe:
    return replace(base, model=model, published=published)


RECIPES: dict[str, Recipe] = {
    "t-ade20k": _published(
        _ADE20K, CGRSEG_T, Published(miou=43.6, params=9.4, gmacs=4.0, note="paper (abstract) and released config")
    ),
    "b-ade20k": _published(
        _ADE20K,
        CGRSEG_B,
        Published(
            miou=45.5,
            params=19.1,
            gmacs=7.7,
            note="released config, 6 pyramid modules; figures of a later paper that shares authors, arXiv 2405.06525",
        ),
    ),
    "b5-ade20k": _published(
        _ADE20K, _B5, Published(miou=45.5, params=18.1, gmacs=7.6, note=_README + "5 pyramid modules")
    ),
    "l-ade20k": _published(_ADE20K, CGRSEG_L, Published(miou=48.3, params=35.7, gmacs=14.9, note=_README + "released")),
    "s0-ade20k": _published(_ADE20K, CGRSEG_S0, Published(note="not published: an extra, smaller variant")),
    "t-coco-stuff-10k": _published(
        _COCO_STUFF_10K, CGRSEG_T, Published(miou=42.2, params=9.4, gmacs=4.0, note=_README + _NO_CONFIG)
    ),
    "b-coco-stuff-10k": _published(
        _COCO_STUFF_10K, _B5, Published(miou=43.5, params=18.1, gmacs=7.6, note=_README + _NO_CONFIG)
    ),
    "l-coco-stuff-10k": _published(
        _COCO_STUFF_10K, CGRSEG_L, Published(miou=46.0, params=35.7, gmacs=14.9, note=_README + _NO_CONFIG)
    ),
    "t-pascal-context-59": _published(
        _PASCAL_CONTEXT_59, CGRSEG_T, Published(miou_ms=54.1, params=9.4, gmacs=4.0, note=_README + _MS)
    ),
    "b-pascal-context-59": _published(
        _PASCAL_CONTEXT_59, _B5, Published(miou_ms=56.5, params=18.1, gmacs=7.6, note=_README + _MS)
    ),
    "l-pascal-context-59": _published(
        _PASCAL_CONTEXT_59, CGRSEG_L, Published(miou_ms=58.5, params=35.7, gmacs=14.9, note=_README + _MS)
    ),
    "toy": TOY.from_scratch(
        replace(_SMALL, width=64, pyramid_modules=2),
        Optim(lr=2e-3),
        iterations=750,
        eval_interval=150,
        save_interval=300,
    ),
    "camvid": CAMVID.from_scratch(
        replace(_SMALL, width=96, pyramid_modules=3), Optim(lr=1.5e-3), iterations=2800, eval_interval=700
    ),
    "own": OWN.from_scratch(
        replace(_SMALL, backbone="tf_efficientnet_lite0", pretrained=True, width=96, pyramid_modules=3),
        Optim(lr=1e-3, lr_mult={"backbone": 0.3}),
        iterations=900,
        eval_interval=180,
    ),
}

PAPER = paper_of_package(
    "cgrseg",
    title="CGRSeg: Context-Guided Spatial Feature Reconstruction for Efficient Semantic Segmentation (ECCV 2024)",
    model_class=CGRSegModel,
    recipes=RECIPES,
    proven=(
        "On the same weights every stage of the T, B and L networks equals the published code's, within 1e-4 of "
        "its standard deviation; training losses within 1e-5."
    ),
)
