"""IIWA's options, its three variants, and a recipe per released configuration (iiwa/PAPER 5).

iiwa-train s-ade20k --run.data ADEChallengeData2016      published: 48.3 % mIoU on the validation images
iiwa-train toy                                           generated scenes, in minutes on two CPU cores

Cityscapes is trained in two stages; the second starts from the first one's weights:

iiwa-train s-cityscapes-coarse --run.data CITYSCAPES
iiwa-train s-cityscapes --run.data CITYSCAPES --load-from work_dirs/iiwa-s-cityscapes-coarse/last.safetensors
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from segcore.errors import check
from segcore.paper import paper_of_package
from segcore.recipe import Loss, Model, Optim, Published, Recipe, Run, Schedule
from segcore.recipe.protocols import (
    ADE20K_512,
    ADE20K_576,
    CAMVID,
    CITYSCAPES,
    CITYSCAPES_COARSE,
    CITYSCAPES_SERVER,
    OWN,
    PASCAL_CONTEXT_59,
    TOY,
    Fragment,
)
from segcore.recipe.ranges import AT_LEAST_1, BELOW_1, NOT_NEGATIVE, POSITIVE

_SWIN = ("swin_tiny", "swin_small", "swin_base", "swin_large", "swin_s3")  # version 1
_STAGES = 4
_OUTPUT_STRIDE = 32  # of every backbone that is not dilated


@dataclass(frozen=True, kw_only=True)
class IIWAModel(Model):
    """IIWA on any backbone with four feature levels.

    Neck and decoder were never released: what the release does not fix is an option here (iiwa/PAPER 3.8 and 3.9).
    """

    merge_strides: Annotated[tuple[int, int, int, int], AT_LEAST_1] = (4, 2, 1, 1)
    """Swin: stride of the patches and of the three mergings; published: the last two keep the size."""
    backbone_width: Annotated[int, NOT_NEGATIVE] = 0
    """Swin: channels of the first level; 0 keeps those of --model.backbone."""
    backbone_depths: Annotated[tuple[int, ...], AT_LEAST_1] = ()
    """Swin: blocks of each stage; empty keeps those of --model.backbone."""
    backbone_heads: Annotated[tuple[int, ...], AT_LEAST_1] = ()
    """Swin: heads of each stage; empty keeps those of --model.backbone."""
    backbone_window: Annotated[int, NOT_NEGATIVE] = 0
    """Swin: side of the windows; 0 keeps that of --model.backbone."""
    backbone_drop_path: Annotated[float, BELOW_1] = 0.3
    """Swin: drop-path rate of the last block."""
    output_stride: Literal[8, 16, 32] = 32
    """Backbone other than Swin: largest stride; 8 gives 4, 8, 8, 8, as Swin's (dilated; ResNets and relatives)."""
    fusion: Literal["1", "2"] = "2"
    """Fusion block of the neck (published name out_type): 2 is cross-IIWA, 1 an early alternative."""
    fusion_rounds: Annotated[int, AT_LEAST_1] = 1
    """Rounds of the cascade of three fusions (published name cascade_num)."""
    fusion_window: Annotated[tuple[int, int], AT_LEAST_1] = (4, 4)
    """Key window of the fusions, height and width; the query's is larger by the ratio of the strides."""
    fusion_heads: Annotated[tuple[int, int, int], AT_LEAST_1] = (4, 8, 16)
    """Heads of the fusions at the first, second and third level."""
    fusion_dropout: Annotated[float, BELOW_1] = 0.1
    """Dropout of the fusions."""
    embed_dim: Annotated[int, AT_LEAST_1] = 256
    """Channels of the query stem, read by the auxiliary classifier."""
    query_dim: Annotated[int, AT_LEAST_1] = 256
    """Channels of the decoder's blocks. (The other reading of the released configs, embed_dim, matters for S only.)"""
    decoder_depth: Annotated[int, AT_LEAST_1] = 3
    """Stages of the decoder; each has one self-IIWA and one cross-IIWA block."""
    decoder_heads: Annotated[int, AT_LEAST_1] = 8
    """Heads of the decoder's attentions."""
    decoder_window: Annotated[tuple[int, int], AT_LEAST_1] = (8, 8)
    """Window of the decoder, height and width; the same for query and memory."""
    decoder_mlp_ratio: Annotated[float, POSITIVE] = 4.0
    """Hidden width of the decoder's MLPs by their input's."""
    decoder_dropout: Annotated[float, BELOW_1] = 0.0
    """Dropout after the decoder's linear layers."""
    decoder_attn_dropout: Annotated[float, BELOW_1] = 0.0
    """Dropout of the decoder's intra-window attention."""
    decoder_drop_path: Annotated[float, BELOW_1] = 0.2
    """Drop-path rate of the decoder's last stage."""
    head_scale: Annotated[int, AT_LEAST_1] = 4
    """Factor by which the sub-pixel head enlarges the last level."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_backbone()
        for option, factor in (
            ("", 4),
            (" --model.decoder-heads", self.decoder_heads),
            (" --model.head-scale", self.head_scale),
        ):
            is_multiple = self.query_dim % factor == 0
            check(is_multiple, f"--model.query-dim must be a multiple of{option} {factor}, got {self.query_dim}")

    def _check_backbone(self) -> None:
        for option, values in (("depths", self.backbone_depths), ("heads", self.backbone_heads)):
            is_valid = len(values) in (0, _STAGES)
            check(is_valid, f"--model.backbone-{option} needs {_STAGES} positive numbers or none, got {values}")
        check(
            self.output_stride == _OUTPUT_STRIDE or not self.backbone.startswith(_SWIN),
            f"--model.output-stride {self.output_stride} is not for {self.backbone}; --model.merge-strides "
            f"sets its strides (4 2 1 1 ends at 8); give --model.output-stride {_OUTPUT_STRIDE}",
        )
        is_valid = set(self.merge_strides[1:]) <= {1, 2}
        check(is_valid, f"--model.merge-strides needs a patch size and three strides 1 or 2, got {self.merge_strides}")
        widths = [self.backbone_width * 2**i for i in range(_STAGES)] if self.backbone_width else []
        for width, heads in zip(widths, self.backbone_heads, strict=False):
            check(
                width % heads == 0,
                f"--model.backbone-heads {self.backbone_heads} must divide the stages' channels {widths}",
            )

    def backbone_changes(self) -> dict[str, Any]:
        """Return what `create_backbone` is given beside the name."""
        if not self.backbone.startswith(_SWIN):
            return {"output_stride": self.output_stride} if self.output_stride != _OUTPUT_STRIDE else {}
        changes = {
            "merge_strides": self.merge_strides,
            "drop_path_rate": self.backbone_drop_path,
            "embed_dim": self.backbone_width,
            "depths": self.backbone_depths,
            "num_heads": self.backbone_heads,
            "window_size": self.backbone_window,
        }
        return {name: value for name, value in changes.items() if value}


IIWA_S = IIWAModel(backbone="swin_small_patch4_window7_224.ms_in1k", embed_dim=384, decoder_depth=4)
IIWA_B = IIWAModel(backbone="swin_base_patch4_window12_384.ms_in22k")
IIWA_L = IIWAModel(
    backbone="swin_large_patch4_window12_384.ms_in22k", embed_dim=384, query_dim=384, decoder_drop_path=0.3
)

# fmt: off
_CITYSCAPES_WEIGHTS = (
    0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023,
    0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507,
)
# fmt: on
_OHEM = Loss(ohem=True, ohem_threshold=0.7, ohem_min_kept=100_000)
_SMALL_LOSS = replace(_OHEM, ohem_min_kept=2000, dice=1.0)  # dice: poles and persons are few pixels
_NO_DECAY = {"norm": 0.0, "absolute_pos_embed": 0.0, "relative_position_bias_table": 0.0}


def _recipe(
    fragment: Fragment,
    model: IIWAModel,
    schedule: Schedule,
    published: Published,
    *,
    batch: int = 16,
    backbone_lr: float = 1.0,
    loss: Loss = _OHEM,
    eval_interval: int = 0,
) -> Recipe:
    """Return a published recipe; a tenth of the run lies between validations unless said otherwise.

    Where the backbone has its own learning rate, the key "backbone" also takes its norms out of the rule for norms:
    they decay; its bias tables keep the full rate (iiwa/PAPER 5).
    """
    interval = eval_interval or schedule.iterations // 10
    lr_mult = {"backbone": backbone_lr} if backbone_lr != 1 else {}
    return Recipe(
        model=model,
        data=replace(fragment.data, batch=batch),
        augment=fragment.augment,
        loss=loss,
        optim=Optim(lr=6e-5, weight_decay=0.01, decay_mult=_NO_DECAY, lr_mult=lr_mult),
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

_ADE_SLIDE = ADE20K_512.slide(384)
_ADE_576_SLIDE = ADE20K_576.slide(384)
_CITY_SLIDE, _SERVER_SLIDE, _COARSE_SLIDE = (
    fragment.slide((256, 512)) for fragment in (CITYSCAPES, CITYSCAPES_SERVER, CITYSCAPES_COARSE)
)
_PASCAL_SLIDE = PASCAL_CONTEXT_59.slide(320)

_B_576, _L_576 = (replace(model, fusion_window=(6, 6), decoder_window=(6, 6)) for model in (IIWA_B, IIWA_L))
_S_CITY, _B_CITY = (replace(model, fusion_window=(4, 8), decoder_window=(4, 8)) for model in (IIWA_S, IIWA_B))

_NONE = "no result published"
_CORRECTED = "the released config carries Swin-L widths with Swin-B weights: Swin-B widths here, the rest as released"
_FIRST_STAGE = Published(note=f"first stage, 19998 coarse and 2975 fine images: {_NONE}")


def _single(miou: float, note: str = "") -> Published:
    return Published(miou=miou, note=f"project README{note}")


def _multi(miou_ms: float, first: str, place: str = "") -> Published:
    """Return the multi-scale figure of a recipe that starts from another one's weights."""
    start = f"starts from {first}: --load-from its last.safetensors; multi-scale + flip"
    return Published(miou_ms=miou_ms, note=f"project README; {place}{start}")


def _cityscapes(
    fragment: Fragment, model: IIWAModel, published: Published, *, schedule: Schedule = _CITY, backbone_lr: float = 1.0
) -> Recipe:
    loss = replace(_OHEM, class_weight=_CITYSCAPES_WEIGHTS)
    return _recipe(fragment, model, schedule, published, loss=loss, backbone_lr=backbone_lr)


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
    "s-ade20k": _recipe(_ADE_SLIDE, IIWA_S, _ADE, _single(48.30)),
    "b-ade20k": _recipe(_ADE_SLIDE, IIWA_B, _ADE, _single(51.85, f"; {_CORRECTED}"), backbone_lr=0.3),
    "b-ade20k-576": _recipe(
        _ADE_576_SLIDE, _B_576, _ADE_576, Published(note=f"{_NONE}; {_CORRECTED}"), backbone_lr=0.2
    ),
    "l-ade20k": _recipe(ADE20K_512, IIWA_L, replace(_ADE, warmup_ratio=1e-6), _single(53.20), batch=8, backbone_lr=0.2),
    "l-ade20k-576": _recipe(_ADE_576_SLIDE, _L_576, _ADE_576, Published(note=_NONE), batch=8, backbone_lr=0.2),
    "s-cityscapes-coarse": _cityscapes(
        CITYSCAPES_COARSE, replace(_S_CITY, decoder_dropout=0.1), _FIRST_STAGE, schedule=replace(_CITY, warmup=1500)
    ),
    "s-cityscapes": _cityscapes(_CITY_SLIDE, _S_CITY, _multi(83.1, "s-cityscapes-coarse")),
    "s-cityscapes-test": _cityscapes(_SERVER_SLIDE, _S_CITY, _multi(82.5, "s-cityscapes-coarse", "test server; ")),
    "b-cityscapes-coarse": _cityscapes(_COARSE_SLIDE, _B_CITY, _FIRST_STAGE, backbone_lr=0.2),
    "b-cityscapes": _cityscapes(
        _CITY_SLIDE, replace(_B_CITY, decoder_dropout=0.1), _multi(84.0, "b-cityscapes-coarse"), backbone_lr=0.2
    ),
    "b-cityscapes-test": _cityscapes(
        _SERVER_SLIDE, _B_CITY, _multi(83.2, "b-cityscapes-coarse", "test server; "), backbone_lr=0.2
    ),
    "s-pascal-context-59": _recipe(
        _PASCAL_SLIDE,
        replace(IIWA_S, decoder_window=(6, 6), decoder_dropout=0.1),
        _PASCAL,
        _single(55.8),
        batch=32,
        eval_interval=8000,
    ),
    "b-pascal-context-59": _recipe(
        _PASCAL_SLIDE,
        replace(IIWA_B, decoder_window=(6, 6)),
        _PASCAL,
        _single(62.9, " and paper (an early README said 62.8)"),
        batch=24,
        backbone_lr=0.2,
        eval_interval=8000,
    ),
    "toy": replace(TOY, warmup=40)
    .training(ratio=(0.75, 1.25), crop=(128, 192))
    .from_scratch(
        _TINY,
        Optim(lr=2e-3, decay_mult=_NO_DECAY),
        iterations=800,
        eval_interval=200,
        save_interval=400,
        loss=_SMALL_LOSS,
    ),
    "camvid": CAMVID.training(crop=(192, 256)).from_scratch(
        _TINY, Optim(lr=2e-3, decay_mult=_NO_DECAY), iterations=1000, eval_interval=250, loss=_SMALL_LOSS
    ),
    "own": OWN.from_scratch(
        replace(_TINY, backbone="tf_efficientnet_lite0", pretrained=True, output_stride=16),
        Optim(lr=1e-3, decay_mult=_NO_DECAY, lr_mult={"backbone": 0.3}),
        iterations=900,
        eval_interval=180,
        loss=_SMALL_LOSS,
    ),
}

PAPER = paper_of_package(
    "iiwa",
    title="IIWA: Intra- and Inter-Window Attention for semantic segmentation",
    model_class=IIWAModel,
    recipes=RECIPES,
    proven=(
        "The released blocks equal the published code's on the same weights, within 1e-5 of their standard "
        "deviation. The neck and the decoder, which join them, were never released: they are a reconstruction."
    ),
)
