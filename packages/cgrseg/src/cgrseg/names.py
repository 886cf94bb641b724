"""Published tensor names of CGRSeg (cgrseg/PAPER 2.5 and 6.2), and what tensor shapes tell about a checkpoint."""

from __future__ import annotations

from dataclasses import replace

from cgrseg.recipes import CGRSegModel
from segcore.backbones.efficientformer_v2 import EfficientFormerV2
from segcore.backbones.efficientformer_v2_weights import REFERENCE
from segcore.recipe import Model
from segcore.segmentor import Segmentor
from segcore.weights.names import NameMap, Shapes, count_parts, no_head

_HEAD_RENAMES = (
    (r"^head\.pyramid\.blocks\.", "decode_head.trans.transformer_blocks."),
    (r"^head\.levels\.", "decode_head.meta."),
    (r"^head\.fuse\.(\d+)\.local\.", r"decode_head.SIM.\1.fuse1."),
    (r"^head\.fuse\.(\d+)\.gate\.", r"decode_head.SIM.\1.fuse2."),
    (r"^head\.level_convs\.", "decode_head.conv."),
    (r"^head\.prior\.", "decode_head.linear_fuse."),
    (r"^head\.guidance\.class_weight\.", "decode_head.lgc.conv_mask."),
    (r"^head\.guidance\.reduce\.", "decode_head.lgc.channel_mul_conv.0."),
    (r"^head\.guidance\.norm\.", "decode_head.lgc.channel_mul_conv.1."),
    (r"^head\.guidance\.expand\.", "decode_head.lgc.channel_mul_conv.3."),
    (r"^head\.classifier\.", "decode_head.conv_seg."),
    # inside a rectangular module
    (r"^(decode_head\..*)\.attention\.local\.", r"\1.token_mixer.dwconv_hw."),
    (r"^(decode_head\..*)\.attention\.horizontal\.", r"\1.token_mixer.excite.0."),
    (r"^(decode_head\..*)\.attention\.norm\.", r"\1.token_mixer.excite.1."),
    (r"^(decode_head\..*)\.attention\.vertical\.", r"\1.token_mixer.excite.3."),
    (r"^(decode_head\.(?:meta|trans)\..*)\.(fc1|fc2)\.", r"\1.mlp.\2."),
)

_BACKBONES_BY_WIDTH: dict[tuple[int, ...], str] = {  # channels at strides 8, 16 and 32
    (48, 96, 176): "efficientformerv2_s0",
    (48, 120, 224): "efficientformerv2_s1",
    (64, 144, 288): "efficientformerv2_s2",
    (80, 192, 384): "efficientformerv2_l",
}


def name_map(model: Segmentor) -> NameMap:
    """Return the published names of a network; those of another backbone than EfficientFormerV2 are timm's."""
    if isinstance(model.backbone, EfficientFormerV2):
        return REFERENCE.with_renames(*_HEAD_RENAMES)
    return NameMap(_HEAD_RENAMES)


def infer_model(options: Model, shapes: Shapes) -> Model:
    """Return the options a published checkpoint was made with: backbone, width, band and depth of the head.

    Args:
        options: whatever shapes cannot tell is taken from here.
        shapes: published tensor name -> shape.

    Raises:
        InputError: if these are not the tensors of a CGRSeg head.
    """
    assert isinstance(options, CGRSegModel)
    fuse = [shapes.get(f"decode_head.SIM.{i}.fuse1.conv.weight") for i in range(3)]
    band = shapes.get("decode_head.meta.0.token_mixer.excite.0.weight")
    depth = count_parts(shapes, "decode_head.trans.transformer_blocks.")
    if None in fuse or band is None or depth == 0:
        raise no_head("CGRSeg head (decode_head.SIM, .meta and .trans)", shapes)
    widths = tuple(shape[1] for shape in fuse if shape is not None)
    backbone = options.backbone
    if "backbone.patch_embed.0.weight" in shapes:
        backbone = _BACKBONES_BY_WIDTH.get(widths, backbone)
    width = next(shape[0] for shape in fuse if shape is not None)
    return replace(options, backbone=backbone, width=width, band=band[-1], pyramid_modules=depth)
