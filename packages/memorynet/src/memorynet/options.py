"""Options of MemoryNet, and its published forms: plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from segcore.errors import check
from segcore.recipe import Model
from segcore.recipe.ranges import AT_LEAST_1, BELOW_1, NOT_NEGATIVE, SHARE

DILATIONS = (1, 12, 24, 36)
"""Of the published DeepLabV3 context; ViT on ADE20K has 1, 6, 12 and 18."""


@dataclass(frozen=True, kw_only=True)
class MemoryNetModel(Model):
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
    attention_width: Annotated[int, AT_LEAST_1] = 256
    """Channels of queries, keys and values."""
    dropout: Annotated[float, BELOW_1] = 0.1
    """Probability that a channel is dropped before a classifier."""
    activation: Literal["ReLU", "LeakyReLU"] = "ReLU"
    """After the norms of the heads (LeakyReLU: ResNet on LIP)."""
    auxiliary: bool = True
    """Auxiliary heads, which only training uses (HRNet: none)."""
    first_loss: Annotated[float, NOT_NEGATIVE] = 0.4
    """Weight of the first prediction's loss."""
    slots: Annotated[int, AT_LEAST_1] = 1
    """Memory rows per class (S)."""
    read: Literal["soft", "hard"] = "soft"
    """Mix memory rows by the first prediction's probabilities, or take the most probable class's row."""
    strategy: Literal["cosine_similarity", "mean"] = "cosine_similarity"
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
    consistency_loss: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the loss of the final classifier on the memory rows themselves, from the second epoch on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(len(self.dilations) > 0, "--model.dilations needs at least one number")
        check(
            self.strategy == "cosine_similarity" or self.slots == 1,
            f"--model.strategy mean knows no nearest slot: it needs --model.slots 1, got {self.slots}",
        )
        check(
            self.levels == "concatenated" or not self.reduction,
            f"--model.reduction halves concatenated maps; it needs --model.levels concatenated, got {self.levels}",
        )


R50 = MemoryNetModel(backbone="resnet50c", output_stride=8)
R101 = MemoryNetModel(backbone="resnet101c", output_stride=8)
S101 = MemoryNetModel(backbone="resnest101e", output_stride=8)
HRNET_W48 = MemoryNetModel(backbone="hrnet_w48", levels="concatenated", auxiliary=False)
VIT_L = MemoryNetModel(
    backbone="vit_large_patch16_384", levels="layers", transformer_layers=(10, 15, 20, 24), image_size=512
)
