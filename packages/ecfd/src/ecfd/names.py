"""Published tensor names of ECFD (ecfd/PAPER 6), and what tensor shapes tell about a checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import nn

from ecfd.model import ECFDFPNHead
from ecfd.recipes import TWO_STREAMS, ECFDModel, Head
from segcore.backbones import convnext, resnet_names, swin_names
from segcore.backbones.convnext import ConvNeXt
from segcore.backbones.swin import Swin
from segcore.errors import InputError
from segcore.recipe import Model
from segcore.segmentor import Segmentor
from segcore.weights.names import NameMap, Shapes, count_parts, no_head

_LEVELS = tuple(  # ours count the levels from 2 as 0, 1, 2
    rename
    for i in range(3)
    for rename in (
        (rf"^head\.projections\.{i}\.", f"decode_head.c{i + 2}_conv1x1."),
        (rf"^head\.outputs\.{i}\.0\.", f"decode_head.c{i + 2}_deconv1x1."),
        (rf"^head\.outputs\.{i}\.1\.", f"decode_head.norm{i + 2}."),
        (rf"^head\.outputs\.{i}\.", f"decode_head.c{i + 2}_deconv1x1."),  # ECFDFPN has no norm after it
        (rf"^head\.rce\.embeddings\.{i}\.", f"decode_head.RCE.layer{i + 2}_embedding."),
    )
)
_HEAD = (
    *_LEVELS,
    (r"^head\.low\.", "decode_head.c1_conv1x1."),
    (r"^head\.rce\.fuse\.", "decode_head.RCE.fuse_layer."),
    (r"^head\.rce\.project\.", "decode_head.RCE.proj."),
    (r"^head\.position\.embedding$", "decode_head.pos_embed"),
    (r"^head\.(blocks\.\d+)\.cicm\.", r"decode_head.\1.CICM."),
    (r"^head\.(blocks\.\d+)\.sicm\.", r"decode_head.\1.SICM."),
    (r"^head\.(blocks\.\d+)\.", r"decode_head.\1.GeneralFusion."),
    (r"^head\.clgd\.gate\.conv\.", "decode_head.clgd.conv_att.0."),
    (r"^head\.clgd\.low\.", "decode_head.clgd.conv_low."),
    (r"^head\.clgd\.join\.", "decode_head.clgd.conv_cat."),
    (r"^head\.clgd\.out\.", "decode_head.clgd.conv_out."),
    (r"^head\.fpn\.top\.", "decode_head.fpn.c4conv."),
    (r"^head\.fpn\.laterals\.", "decode_head.fpn.fpn_lateral."),
    (r"^head\.fpn\.outputs\.", "decode_head.fpn.fpn_out."),
    (r"^head\.fpn\.fuse\.", "decode_head.fpn.conv5."),
    (r"^head\.classifier\.", "decode_head.conv_seg."),
    (r"^head\.", "decode_head."),  # up, clgd.gamma
    (r"^auxiliary\.0\.classifier\.", "auxiliary_head.conv_seg."),
    (r"^auxiliary\.0\.", "auxiliary_head."),
    # inside a block
    (r"^(decode_head\.blocks\..*)\.feature_norm\.", r"\1.feat_norm."),
    (r"^(decode_head\.blocks\..*)\.attention\.", r"\1.attn."),
    (r"^(decode_head\.blocks\..*)\.mlp\.conv\.", r"\1.Mlp.dwconv.dwconv."),
    (r"^(decode_head\.blocks\..*)\.mlp\.", r"\1.Mlp."),
)
_FPN_VARIANT = ((r"^head\.up\.", "decode_head.clgd_conv1x1."),)

_SWINS = {  # (width, blocks of the third stage)
    (96, 6): "swin_tiny_patch4_window7_224",
    (96, 18): "swin_small_patch4_window7_224",
    (128, 18): "swin_base_patch4_window7_224",
    (192, 18): "swin_large_patch4_window7_224",
}
_CONVNEXTS = {
    (96, 9): "convnext_tiny",
    (96, 27): "convnext_small",
    (128, 27): "convnext_base",
    (192, 27): "convnext_large",
    (256, 27): "convnext_xlarge",
}
_HEADS_BY_WIDTH = {192: 6, 384: 6, 768: 12, 1024: 16}
"""Attention heads of the four sizes, by E: tensor shapes do not tell them."""
_BLOCKS = "decode_head.blocks."
_GRIDS = ((128, 256), (120, 120))
"""Position grids of the published crops, 512x1024 and 480x480."""


def name_map(model: Segmentor) -> NameMap:
    """Return the published names of a network; those of another backbone than the published ones are ours."""
    backbone, head = model.get_submodule("backbone"), model.get_submodule("head")
    renames = (*_FPN_VARIANT, *_HEAD) if isinstance(head, ECFDFPNHead) else _HEAD
    return _backbone_names(backbone).with_renames(*renames)


def _backbone_names(backbone: nn.Module) -> NameMap:
    if isinstance(backbone, Swin):
        return swin_names.MICROSOFT
    if isinstance(backbone, ConvNeXt):
        return convnext.ORIGINAL
    has_deep_stem = any(name == "model.conv1.0.weight" for name, _ in backbone.named_parameters())
    return NameMap(resnet_names.RENAMES) if has_deep_stem else NameMap()


def infer_model(options: Model, shapes: Shapes) -> Model:
    """Return the options a published checkpoint was made with: backbone, variant, widths and depth of the head.

    Args:
        options: whatever shapes cannot tell is taken from here: the position grid's sides, the heads (those of the
            published sizes at another width), whether context is added to the levels.
        shapes: published tensor name -> shape.

    Raises:
        InputError: if these are not the tensors of an ECFD head, or the position grid is of another crop.
    """
    assert isinstance(options, ECFDModel)
    variant = _head_of(shapes)
    found = replace(
        options,
        head=variant,
        backbone=_backbone_of(options.backbone, shapes),
        channels=shapes["decode_head.conv_seg.weight"][1],
        context_to_levels=options.context_to_levels and variant in TWO_STREAMS and count_parts(shapes, _BLOCKS) == 3,
        output_stride=8 if variant == "general" else options.output_stride,
        **_auxiliary_of(shapes),
    )
    if variant == "fpn":
        width = shapes["decode_head.c2_conv1x1.weight"][0]
        return replace(found, embed_dim=width, heads=_heads_of(options, width))
    return _with_blocks(found, shapes)


def _head_of(shapes: Shapes) -> Head:
    """Return the variant that has these tensors."""
    if "decode_head.clgd.gamma" not in shapes or "decode_head.conv_seg.weight" not in shapes:
        raise no_head("ECFD head (decode_head.clgd and .conv_seg)", shapes)
    is_plain = "decode_head.RCE.proj.weight" in shapes
    if "decode_head.clgd_conv1x1.weight" in shapes:
        return "fpn"
    if "decode_head.blocks.0.CICM.gamma" in shapes:
        return "patch4" if is_plain else "ecfd"
    if "decode_head.c2_conv1x1.weight" in shapes:
        return "spatial"
    return "general" if is_plain else "general_fpn"


def _auxiliary_of(shapes: Shapes) -> dict[str, int]:
    shape = shapes.get("auxiliary_head.conv_seg.weight")
    return {} if shape is None else {"auxiliary_channels": shape[1]}


def _with_blocks(options: ECFDModel, shapes: Shapes) -> ECFDModel:
    """Return the options with what the blocks and the position grid tell."""
    has_two_streams = options.head in TWO_STREAMS
    fusion = f"{_BLOCKS}0.CICM." if has_two_streams else f"{_BLOCKS}0.GeneralFusion."
    values, width = shapes[f"{fusion}attn.value_proj.weight"]
    heads = _heads_of(options, width)
    levels = 3 if has_two_streams or options.head == "spatial" else 1
    ratio = _ratio(shapes[f"{_BLOCKS}0.SICM.Mlp.fc1.weight"][0], width) if has_two_streams else options.mlp_ratio
    return replace(
        options,
        embed_dim=width,
        heads=heads,
        depth=count_parts(shapes, _BLOCKS),
        points=shapes[f"{fusion}attn.attention_weights.weight"][0] // (heads * levels),
        mlp_ratio=ratio,
        value_ratio=_ratio(values, width),
        position_grid=_grid_of(options, shapes),
    )


def _heads_of(options: ECFDModel, width: int) -> int:
    """Return the attention heads, which shapes do not tell: the options' own at their width, or the published."""
    return options.heads if options.embed_dim == width else _HEADS_BY_WIDTH.get(width, options.heads)


def _ratio(part: int, width: int) -> float:
    """Return a ratio for which `int(width * ratio)` is the part: their quotient, or the next number above it."""
    ratio = part / width
    return ratio if int(width * ratio) == part else math.nextafter(ratio, math.inf)


def _grid_of(options: ECFDModel, shapes: Shapes) -> tuple[int, int]:
    shape = shapes.get("decode_head.pos_embed")
    if shape is None:
        return options.position_grid
    rows = shape[1] - 1  # the first one is never used
    for grid in (options.position_grid, *_GRIDS):
        if grid[0] * grid[1] == rows:
            return grid
    height, width = options.position_grid
    raise InputError(
        f"the checkpoint's position grid has {rows} places, not {height}x{width}; "
        "give a quarter of the crop that it was trained with as --model.position-grid HEIGHT WIDTH"
    )


def _backbone_of(given: str, shapes: Shapes) -> str:
    """Return the backbone that has these tensors; the given one where it does, whatever its weights tag, or none."""
    found = given
    if "backbone.stem.0.weight" in shapes:
        found = "resnet101c" if "backbone.layer3.22.conv1.weight" in shapes else "resnet50c"
    elif "backbone.patch_embed.proj.weight" in shapes:
        width = shapes["backbone.patch_embed.proj.weight"][0]
        found = _SWINS.get((width, count_parts(shapes, "backbone.layers.2.blocks.")), given)
    elif "backbone.downsample_layers.0.0.weight" in shapes:
        width = shapes["backbone.downsample_layers.0.0.weight"][0]
        found = _CONVNEXTS.get((width, count_parts(shapes, "backbone.stages.2.")), given)
    return given if given.split(".")[0] == found else found
