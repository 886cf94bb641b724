"""Options and recipes of the baselines; entry points of core itself, as papers are of their packages.

segcore train fcn toy                    generated scenes, in minutes on two CPU cores
segcore compare run camvid --root DIR --papers cgrseg,fcn,smp-unet
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from segcore.errors import check
from segcore.paper import Later, Paper
from segcore.recipe import Model, Optim, Recipe
from segcore.recipe.protocols import CAMVID, TOY
from segcore.recipe.ranges import AT_LEAST_1, BELOW_1

Decoder = Literal[
    "unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet", "deeplabv3", "deeplabv3plus", "upernet", "segformer",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FCNModel(Model):
    """FCN on any backbone with at least two feature levels."""

    output_stride: Literal[8, 16, 32] = 8
    """Largest stride of the maps of a ResNet or its relatives, the later ones dilated."""
    width: Annotated[int, AT_LEAST_1] = 512
    """Channels of the head."""
    convs: Annotated[int, AT_LEAST_1] = 2
    """3x3 convolutions of the head."""
    auxiliary_width: Annotated[int, AT_LEAST_1] = 256
    """Channels of the auxiliary head on the level before the last, which is used in training only."""
    dropout: Annotated[float, BELOW_1] = 0.1
    """Probability that a channel is dropped before a classifier."""


@dataclass(frozen=True, kw_only=True)
class SMPModel(Model):
    """A decoder of segmentation_models_pytorch, with that library's settings, on any backbone with four levels."""

    decoder: Decoder
    """Which one."""
    width: Annotated[int, AT_LEAST_1] = 256
    """Channels of the decoder; Unet and its relatives halve them at every level."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # the norms of its half-wide convolutions have 32 groups
        is_multiple = self.decoder != "fpn" or self.width % 64 == 0
        check(is_multiple, f"--model.width must be a multiple of 64 for --model.decoder fpn, got {self.width}")


_RESNET18 = {"backbone": "resnet18", "pretrained": False, "backbone_norm": "batch"}


def _small(model: Model) -> dict[str, Recipe]:
    """Return the recipes that run anywhere."""
    return {
        "toy": TOY.from_scratch(model, Optim(lr=2e-3), iterations=600, eval_interval=150),
        "camvid": CAMVID.from_scratch(model, Optim(lr=1e-3), iterations=2000, eval_interval=500),
    }


_SMALL_FCN = FCNModel(**_RESNET18, output_stride=16, width=128, auxiliary_width=64)
_SMALL_SMP = SMPModel(**_RESNET18, decoder="unet", width=64)

FCN = Paper(
    name="fcn",
    title="FCN: Fully Convolutional Networks for Semantic Segmentation (CVPR 2015), as mmsegmentation has it",
    model_class=FCNModel,
    recipes={
        "r50-d8": CAMVID.from_scratch(
            FCNModel(backbone="resnet50c"), Optim(lr=1e-3), iterations=2000, eval_interval=500
        ),
        **_small(_SMALL_FCN),
    },
    build=Later("segcore.baselines.fcn:build"),
    name_map=Later("segcore.baselines.fcn:name_map"),
    infer_model=Later("segcore.baselines.fcn:infer_model"),
    citation="""@inproceedings{long2015fully,
  title={Fully Convolutional Networks for Semantic Segmentation},
  author={Long, Jonathan and Shelhamer, Evan and Darrell, Trevor},
  booktitle={CVPR},
  year={2015}
}
""",
    proven="A baseline of segcore: compared with no published code.",
)

SMP = Paper(
    name="smp",
    title="Decoders of segmentation_models_pytorch (extra segcore[smp])",
    model_class=SMPModel,
    recipes={
        **{
            name: CAMVID.from_scratch(
                SMPModel(backbone="resnet34", decoder=name), Optim(lr=1e-3), iterations=2000, eval_interval=500
            )
            for name in get_args(Decoder)
        },
        **_small(_SMALL_SMP),
    },
    build=Later("segcore.baselines.smp:build"),
    name_map=Later("segcore.baselines.smp:name_map"),
    infer_model=Later("segcore.baselines.smp:infer_model"),
    proven="The decoder's modules are those of segmentation_models_pytorch.",
)
