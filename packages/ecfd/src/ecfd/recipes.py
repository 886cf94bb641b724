"""ECFD's options and sizes, and one recipe per row of its results tables and released config (ecfd/PAPER 5).

ecfd-train tiny-r50-cityscapes --run.data CITYSCAPES       expects 79.91 % mIoU on the validation images
ecfd-train toy                                             generated scenes, in minutes on two CPU cores
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

from segcore.errors import check
from segcore.paper import paper_of_package
from segcore.recipe import Model, Optim, Published, Recipe, Run, Schedule
from segcore.recipe.protocols import BDD100K, CAMVID, CITYSCAPES, OWN, PASCAL_CONTEXT_59, TOY, Fragment
from segcore.recipe.ranges import AT_LEAST_1, BELOW_1, POSITIVE, Range

Head = Literal["ecfd", "patch4", "fpn", "general_fpn", "general", "spatial"]
TWO_STREAMS: tuple[Head, ...] = ("ecfd", "patch4")
"""Variants with context and spatial tokens; the others have one stream or none."""
_RATIO = Range("be in (0, 100]", POSITIVE.low, 100)


@dataclass(frozen=True, kw_only=True)
class ECFDModel(Model):
    """ECFD on any backbone with at least four feature levels; the last four are used."""

    head: Head = "ecfd"
    """ecfd: the paper's. patch4: without RCE. fpn: without blocks. general_fpn, general, spatial: strategies 1 to 3."""
    embed_dim: Annotated[int, AT_LEAST_1] = 192
    """Channels of the tokens (E): tiny 192, small 384, base 768, large 1024."""
    heads: Annotated[int, AT_LEAST_1] = 6
    """Attention heads: tiny and small 6, base 12, large 16."""
    channels: Annotated[int, AT_LEAST_1] = 256
    """Channels of the decoder (C): 256 on ResNet, 192 on Swin-L and ConvNeXt-L."""
    depth: Annotated[int, AT_LEAST_1] = 3
    """Fusion blocks (L)."""
    points: Annotated[int, AT_LEAST_1] = 4
    """Samples per query, head and level."""
    mlp_ratio: Annotated[float, _RATIO] = 0.5
    """Width of the MLP over E (single-stream variants: 0.25 always, as published)."""
    value_ratio: Annotated[float, _RATIO] = 1.0
    """Width of the attention's values over E (`deform_ratio`)."""
    position_grid: Annotated[tuple[int, int], AT_LEAST_1] = (128, 256)
    """Height and width of the position grid: a quarter of the training crop. Checkpoints hold their product only."""
    context_to_levels: bool = False
    """Add the context after each of three blocks to a level (`add_context_information`); off in all published runs."""
    dropout: Annotated[float, BELOW_1] = 0.1
    """Probability that a channel is dropped before a classifier."""
    auxiliary_channels: Annotated[int, AT_LEAST_1] = 256
    """Width of the auxiliary head on level 3, which is used in training only."""
    output_stride: Literal[8, 32] = 32
    """Stride of the coarsest level; 8 dilates a ResNet (strategy 2)."""
    drop_path: Annotated[float, BELOW_1] = 0.0
    """Drop-path rate of the backbone's last block (Swin-L: 0.3, ConvNeXt-L: 0.4)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        width = int(self.embed_dim * self.value_ratio)
        check(
            width >= 1 and width % self.heads == 0,
            f"--model.heads must divide the {width} channels of the values (--model.embed-dim x --model.value-ratio), "
            f"got {self.heads}",
        )
        check(
            int(self.embed_dim * self.mlp_ratio) >= 1,
            f"--model.mlp-ratio leaves no channel of {self.embed_dim}, got {self.mlp_ratio}",
        )
        check(
            not self.context_to_levels or self.depth == 3,
            f"--model.context-to-levels needs --model.depth 3, one block per level, got {self.depth}",
        )
        check(
            not self.context_to_levels or self.head in TWO_STREAMS,
            f"--model.context-to-levels needs --model.head {' or '.join(TWO_STREAMS)}, got {self.head}",
        )

    def suited_to(self, crop: tuple[int, int], lr: float) -> Self:
        """Return the same network with the position grid of another training crop."""
        return replace(self, position_grid=(-(-crop[0] // 4), -(-crop[1] // 4)))


TINY = ECFDModel(backbone="resnet50c")
SMALL = ECFDModel(backbone="resnet50c", embed_dim=384)
BASE = ECFDModel(backbone="resnet50c", embed_dim=768, heads=12)
LARGE = ECFDModel(backbone="resnet50c", embed_dim=1024, heads=16)

_RESNETS = {"r50": "resnet50c", "r101": "resnet101c"}
_WEIGHT_DECAY = {"r50": 1e-4, "r101": 1e-4, "swin-l": 0.05, "convnext-l": 0.05}
_DATA: dict[str, Fragment] = {
    "cityscapes": CITYSCAPES,
    "pascal-context-59": PASCAL_CONTEXT_59.slide(320),
    "bdd100k": BDD100K,
}


def _on(backbone: str, size: ECFDModel) -> ECFDModel:
    """Return a size of the head on one of the four published backbones, as the runs had it."""
    if backbone in _RESNETS:
        return replace(size, backbone=_RESNETS[backbone])
    if backbone == "swin-l":
        return replace(size, backbone="swin_large_patch4_window7_224.ms_in22k", channels=192, drop_path=0.3)
    return replace(size, backbone="convnext_large.fb_in22k", channels=192, drop_path=0.4)


def _positions(recipe: Recipe) -> Recipe:
    """Return a recipe with the position grid of its training crop."""
    assert isinstance(recipe.model, ECFDModel)
    return replace(recipe, model=recipe.model.suited_to(recipe.augment.crop, recipe.optim.lr))


def _recipe(data: str, backbone: str, model: ECFDModel, published: Published) -> Recipe:
    fragment = _DATA[data]
    height, width = fragment.augment.crop
    return Recipe(
        model=replace(_on(backbone, model), position_grid=(height // 4, width // 4)),
        data=replace(fragment.data, batch=16),
        augment=fragment.augment,
        # every parameter decays, norms, biases and positions too: as published
        optim=Optim(lr=1e-4, weight_decay=_WEIGHT_DECAY[backbone], lr_mult={"backbone": 0.1}),
        schedule=Schedule(iterations=80_000, warmup=1500, warmup_ratio=1e-6),
        evaluate=fragment.evaluate,
        run=Run(eval_interval=8000, save_interval=8000),
        published=published,
    )


_Row = tuple[str, str, str, float, float, float, float, str]
_REPEATED = "README repeats the R101 row; logs {}"
# data, backbone, size, mIoU, mIoU ms + flip, parameters in M, GMACs, note
_ROWS: tuple[_Row, ...] = (
    ("cityscapes", "r50", "tiny", 79.91, 81.18, 41, 206, "log: last 79.91, best 80.06 at 72k"),
    ("cityscapes", "r50", "small", 80.14, 81.32, 51, 222, "log: last; best 80.24 at 56k"),
    ("cityscapes", "r101", "tiny", 80.50, 81.48, 60, 245, "log: best at 64k, last 80.06"),
    ("cityscapes", "r101", "small", 80.74, 82.00, 70, 261, "log: 80.73 at 64k, 80.95 at 72k, 80.77 last"),
    ("cityscapes", "swin-l", "tiny", 82.67, 83.41, 209, 473, "log: last"),
    ("cityscapes", "swin-l", "small", 83.10, 83.61, 218, 488, "log: last; best 83.25"),
    ("cityscapes", "convnext-l", "tiny", 83.70, 84.44, 210, 453, "released config differs from the run"),
    ("cityscapes", "convnext-l", "small", 83.55, 84.42, 219, 468, "README"),
    ("pascal-context-59", "r50", "tiny", 52.13, 54.10, 41, 91, "README; its 41M is Cityscapes', the model has 37.8M"),
    ("pascal-context-59", "r50", "small", 52.66, 54.27, 43, 98, "README; 43.6M, rounded down"),
    ("pascal-context-59", "r101", "tiny", 53.80, 55.75, 57, 108, "README; log 53.88"),
    ("pascal-context-59", "r101", "small", 54.3, 56.09, 63, 115, "README"),
    ("pascal-context-59", "swin-l", "tiny", 63.73, 64.94, 205, 217, "README"),
    ("pascal-context-59", "swin-l", "small", 63.36, 64.81, 211, 223, "README; its test file is ConvNeXt-small's"),
    ("pascal-context-59", "convnext-l", "tiny", 62.65, 63.93, 207, 199, "README"),
    ("pascal-context-59", "convnext-l", "small", 63.62, 64.48, 212, 206, "README"),
    # 207 and 246 GMACs hold with --model.backbone-norm batch, whose norms are counted (206.56 and 245.51)
    ("bdd100k", "r50", "tiny", 64.96, 66.57, 41, 207, _REPEATED.format("62.84, ms + flip 64.58")),
    ("bdd100k", "r50", "small", 65.48, 67.32, 51, 222, _REPEATED.format("62.69, ms + flip 64.87")),
    ("bdd100k", "r101", "tiny", 64.96, 66.57, 60, 246, "README and logs"),
    ("bdd100k", "r101", "small", 65.48, 67.32, 70, 261, "README and logs"),
    ("bdd100k", "swin-l", "tiny", 67.80, 68.91, 209, 473, "README and logs"),
    ("bdd100k", "swin-l", "small", 67.82, 69.13, 218, 488, "README and logs"),
    ("bdd100k", "convnext-l", "tiny", 67.23, 67.77, 210, 453, "README and logs"),
    ("bdd100k", "convnext-l", "small", 67.62, 67.95, 219, 468, "README; logs 67.64, ms + flip 68.14"),
)
_SIZES = {"tiny": TINY, "small": SMALL}


def _row(row: _Row) -> Recipe:
    data, backbone, size, miou, miou_ms, params, gmacs, note = row
    published = Published(miou=miou, miou_ms=miou_ms, params=params, gmacs=gmacs, note=note)
    return _recipe(data, backbone, _SIZES[size], published)


def _ablation(model: ECFDModel, last: float | None, note: str) -> Recipe:
    """Return a run of the ablations: Cityscapes, R50, no row in the README; mIoU of the last validation logged."""
    return _recipe("cityscapes", "r50", model, Published(miou=last, note=f"log: last; {note}" if last else note))


_TINY_BATCH = replace(TINY, backbone_norm="batch")  # the released base config forgets the synchronization, these ran it
_ABLATIONS: dict[str, Recipe] = {
    "tiny-l1-r50-cityscapes": _ablation(replace(TINY, depth=1), 79.20, "best 79.55; one block"),
    "tiny-l2-r50-cityscapes": _ablation(replace(TINY, depth=2), 79.53, "best 79.54; two blocks"),
    "tiny-l4-r50-cityscapes": _ablation(replace(TINY, depth=4), 79.58, "best 79.58; four blocks"),
    "tiny-l5-r50-cityscapes": _ablation(replace(TINY, depth=5), 79.35, "best 79.69; five blocks"),
    "base-r50-cityscapes": _ablation(BASE, 79.68, "best 79.90"),
    "large-r50-cityscapes": _ablation(LARGE, 80.25, "best 80.44"),
    "strategy1-r50-cityscapes": _ablation(
        replace(_TINY_BATCH, head="general_fpn"), 77.79, "best 77.98; ECFDGeneralFPN, per-process norms"
    ),
    "strategy2-r50-cityscapes": _ablation(
        replace(_TINY_BATCH, head="general", output_stride=8), None, "no log; ECFDGeneral, dilated, per-process norms"
    ),
    "strategy3-r50-cityscapes": _ablation(
        replace(_TINY_BATCH, head="spatial"), 78.74, "best 78.84; ECFDSpatial, per-process norms"
    ),
    "fpn-r50-cityscapes": _ablation(
        replace(_TINY_BATCH, head="fpn"), 64.41, "best 67.91 at 16k; ECFDFPN, no norm on the levels"
    ),
    "patch4-r50-cityscapes": _ablation(replace(TINY, head="patch4"), None, "no config or log; ECFDPatch4"),
}

_SMALL_MODEL = ECFDModel(
    backbone="resnet18", pretrained=False, backbone_norm="batch", embed_dim=64, heads=4, channels=64, depth=2
)

RECIPES: dict[str, Recipe] = {
    **{f"{row[2]}-{row[1]}-{row[0]}": _row(row) for row in _ROWS},
    **_ABLATIONS,
    "toy": TOY.training(crop=(128, 192)).from_scratch(
        replace(_SMALL_MODEL, position_grid=(32, 48)), Optim(lr=2e-3), iterations=900, eval_interval=300
    ),
    "camvid": CAMVID.from_scratch(
        replace(_SMALL_MODEL, embed_dim=96, channels=96, position_grid=(56, 80)),
        Optim(lr=1.5e-3),
        iterations=2000,
        eval_interval=500,
    ),
    "own": _positions(
        OWN.from_scratch(
            replace(_SMALL_MODEL, backbone="tf_efficientnet_lite0", pretrained=True, embed_dim=96, channels=96),
            Optim(lr=1e-3, lr_mult={"backbone": 0.3}),
            iterations=900,
            eval_interval=180,
        )
    ),
}

PAPER = paper_of_package(
    "ecfd",
    title="ECFD: Efficient Cross-Information Fusion Decoder for Semantic Segmentation",
    model_class=ECFDModel,
    recipes=RECIPES,
    follow_crop=_positions,
    proven=(
        "On the same weights every stage of all six heads equals the published code's, within 1e-4 of its "
        "standard deviation; training losses within 1e-5."
    ),
)
