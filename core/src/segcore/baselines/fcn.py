"""FCN: 3x3 convolutions and a classifier on the deepest level, an auxiliary head on the one before."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from segcore.backbones import backbone_of, resnet_names
from segcore.backbones.unread import unread_parameters
from segcore.baselines.recipes import FCNModel
from segcore.layers.fcn_head import FCNHead
from segcore.losses import SegmentationLoss
from segcore.recipe import Model, Recipe
from segcore.segmentor import EncoderDecoder, Segmentor
from segcore.weights.names import NameMap, Shapes, count_parts, no_head

_OUTPUT_STRIDE = 32
_RENAMES = (
    (r"^head\.classifier\.", "decode_head.conv_seg."),
    (r"^head\.", "decode_head."),
    (r"^auxiliary\.0\.classifier\.", "auxiliary_head.conv_seg."),
    (r"^auxiliary\.0\.", "auxiliary_head."),
)


class FCN(EncoderDecoder):
    """FCN (https://arxiv.org/abs/1411.4038): logits at the stride of the backbone's last level."""

    classifiers = ("head.classifier.", "auxiliary.0.classifier.")

    def __init__(self, options: FCNModel, num_classes: int, loss: nn.Module, auxiliary_weight: float) -> None:
        changes = {"output_stride": options.output_stride} if options.output_stride != _OUTPUT_STRIDE else {}
        backbone = backbone_of(options, levels=2, paper="FCN", **changes)
        before, last = backbone.channels[-2:]
        head = FCNHead(last, options.width, num_classes, index=-1, num_convs=options.convs, dropout=options.dropout)
        auxiliary = FCNHead(before, options.auxiliary_width, num_classes, index=-2, dropout=options.dropout)
        super().__init__(
            backbone,
            head,
            num_classes,
            loss,
            nn.ModuleList([auxiliary]),
            auxiliary_weight,
            classifiers=self.classifiers,
        )
        # norms of the level that only the auxiliary head reads
        self.loss_only += tuple(f"backbone.{name}" for name in unread_parameters(backbone, {-1}))


def build(recipe: Recipe, num_classes: int) -> FCN:
    """Return the network of a recipe with its initial weights."""
    assert isinstance(recipe.model, FCNModel)
    return FCN(recipe.model, num_classes, SegmentationLoss(recipe.loss), recipe.loss.auxiliary)


def name_map(model: Segmentor) -> NameMap:
    """Return OpenMMLab's names of a network; those of another backbone than ResNet-C are ours."""
    has_deep_stem = any(name == "model.conv1.0.weight" for name, _ in model.backbone.named_parameters())
    return NameMap(resnet_names.RENAMES if has_deep_stem else ()).with_renames(*_RENAMES)


def infer_model(options: Model, shapes: Shapes) -> Model:
    """Return the options of a checkpoint with OpenMMLab's names, as far as shapes tell them.

    Raises:
        InputError: if these are not the tensors of such a head.
    """
    assert isinstance(options, FCNModel)
    first = shapes.get("decode_head.convs.0.conv.weight")
    if first is None:
        raise no_head("FCN head (decode_head.convs)", shapes)
    auxiliary = shapes.get("auxiliary_head.convs.0.conv.weight", (options.auxiliary_width,))
    depth = count_parts(shapes, "decode_head.convs.")
    return replace(options, width=first[0], convs=depth, auxiliary_width=auxiliary[0])
