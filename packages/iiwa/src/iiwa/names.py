"""Published tensor names of IIWA (iiwa/PAPERs 2, 3 and 6), and what tensor shapes tell about a checkpoint.

Names of the backbone and inside every block are the released ones. The containers of neck and decoder were never
released: `neck.trf{1,2,3}s` (a public predecessor's) and everything right under `decode_head` are ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch

from iiwa.options import IIWA_B, IIWA_L, IIWA_S, IIWAModel
from iiwa.released import ATTENTION_LEAVES, FUSION_LEAVES, describe_blocks
from segcore.backbones import create_backbone
from segcore.backbones.swin import Swin
from segcore.backbones.swin_names import OPENMMLAB
from segcore.errors import InputError
from segcore.recipe import Model
from segcore.segmentor import Segmentor
from segcore.weights.names import NameMap

Shapes = Mapping[str, tuple[int, ...]]

_INDEX_TABLES = r"decode_head\..*\.relative_position_index"
_HEAD_RENAMES = (
    *((rf"^head\.neck\.fuse{i}\.", f"neck.trf{4 - i}s.") for i in (1, 2, 3)),  # the deepest fusion runs first
    (r"^head\.decoder\.", "decode_head."),
)


def leaf_renames(leaves: Mapping[str, str], container: str = "") -> tuple[tuple[str, str], ...]:
    """Return renames of the tensors of one kind of block.

    Args:
        leaves: our name inside a block -> published name.
        container: regular expression of the published place of such blocks, ending with a dot; empty for a bare block.
    """
    return tuple(
        (rf"^({container}){re.escape(ours)}(?=\.|$)", rf"\g<1>{published}") for ours, published in leaves.items()
    )


_BLOCK_RENAMES = (
    *leaf_renames(FUSION_LEAVES, r"neck\.trf\ds\.\d+\."),
    *leaf_renames(ATTENTION_LEAVES, r"decode_head\.stages\.\d+\.\w+\."),
)


def name_map(model: Segmentor) -> NameMap:
    """Return the published names of a network; those of another backbone than Swin are its own."""
    head = (*_HEAD_RENAMES, *_BLOCK_RENAMES)
    if isinstance(model.backbone, Swin):
        return NameMap((*OPENMMLAB.renames, *head), (*OPENMMLAB.dropped, _INDEX_TABLES), OPENMMLAB.transforms)
    return NameMap(head, (_INDEX_TABLES,))


def infer_model(options: Model, shapes: Shapes) -> Model:
    """Return the options a checkpoint was made with, as far as its shapes tell them: sizes of backbone and decoder.

    Args:
        options: whatever shapes cannot tell (strides, heads, rates) is taken from here.
        shapes: published tensor name -> shape.

    Raises:
        InputError: if neck and decoder lie in other containers than ours, as those of a released checkpoint must; it
            says which blocks are recognized and what is left.
    """
    assert isinstance(options, IIWAModel)
    found = _infer_backbone(options, shapes)
    required = ("decode_head.query_embed.weight", "decode_head.head.expand.weight", "neck.trf1s.0.q_lin.weight")
    if any(name not in shapes for name in required):
        raise InputError(_unknown_containers(shapes))
    embed_dim = shapes["decode_head.query_embed.weight"][0]
    expanded, query_dim = shapes["decode_head.head.expand.weight"][:2]
    return replace(
        found,
        embed_dim=embed_dim,
        query_dim=query_dim,
        head_scale=expanded // query_dim,
        decoder_depth=_count(shapes, r"decode_head\.stages\.(\d+)\."),
        fusion_rounds=_count(shapes, r"neck\.trf1s\.(\d+)\."),
        fusion="1" if "neck.trf1s.0.mlp.fc1.weight" in shapes else "2",
        decoder_mlp_ratio=shapes["decode_head.stages.0.self_attn.mlp.fc1.weight"][0] / query_dim,
        **_infer_decoder_attention(options, shapes["decode_head.stages.0.self_attn.relative_position_bias_table"]),
    )


def _infer_decoder_attention(options: IIWAModel, table: tuple[int, ...]) -> dict[str, object]:
    """Return heads and window told by a position table of (2 w_h - 1) (2 w_w - 1) rows."""
    rows, heads = table
    height, width = options.decoder_window
    if rows == (2 * height - 1) * (2 * width - 1):
        return {"decoder_heads": heads}
    side = math.isqrt(rows)
    if side**2 == rows and side % 2 == 1:
        return {"decoder_heads": heads, "decoder_window": ((side + 1) // 2,) * 2}
    raise InputError(
        f"its decoder has position tables of {rows} rows, which do not belong to --model.decoder-window "
        f"{height} {width}; give the window it was trained with"
    )


def _count(shapes: Shapes, pattern: str) -> int:
    return len({match[1] for match in (re.match(pattern, name) for name in shapes) if match})


class _SwinSize(NamedTuple):
    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int


def _infer_backbone(options: IIWAModel, shapes: Shapes) -> IIWAModel:
    """Return options whose backbone is the Swin of these shapes; those of another backbone stay as they are."""
    if "backbone.patch_embed.projection.weight" not in shapes:
        return options
    tables = {
        int(match[1]): shape
        for name, shape in shapes.items()
        if (match := re.fullmatch(r"backbone\.stages\.(\d+)\.blocks\.0\..*relative_position_bias_table", name))
    }
    stages = sorted(tables)
    size = _SwinSize(
        width=shapes["backbone.patch_embed.projection.weight"][0],
        depths=tuple(_count(shapes, rf"backbone\.stages\.{i}\.blocks\.(\d+)\.") for i in stages),
        heads=tuple(tables[i][1] for i in stages),
        window=(math.isqrt(tables[0][0]) + 1) // 2,
    )
    named = {"backbone_width": 0, "backbone_depths": (), "backbone_heads": (), "backbone_window": 0}
    variants = (replace(options, backbone=variant.backbone, **named) for variant in (IIWA_S, IIWA_B, IIWA_L))
    for candidate in (options, *variants):
        if _swin_size(candidate) == size:
            return candidate
    return replace(
        options,
        backbone_width=size.width,
        backbone_depths=size.depths,
        backbone_heads=size.heads,
        backbone_window=size.window,
    )


def _swin_size(options: IIWAModel) -> _SwinSize | None:
    """Return the size of the backbone that options stand for, None where it is no Swin."""
    with torch.device("meta"):
        backbone = create_backbone(options.backbone, pretrained=False, **options.backbone_changes())
    if not isinstance(backbone, Swin):
        return None
    attentions = [stage.blocks[0].attn for stage in backbone.stages]  # pyright: ignore[reportIndexIssue, reportAttributeAccessIssue]
    depths = tuple(len(stage.blocks) for stage in backbone.stages)  # pyright: ignore[reportArgumentType]
    return _SwinSize(backbone.channels[0], depths, tuple(a.num_heads for a in attentions), attentions[0].window)


def _unknown_containers(shapes: Shapes) -> str:
    if not any(name.startswith(("neck.", "decode_head.")) for name in shapes):
        first = ", ".join(list(shapes)[:3]) or "nothing"
        return f"the checkpoint has neither neck nor decode_head; it starts with {first}"
    return (
        "its neck and decoder are not stored as ours are; how the released ones are was never published. "
        f"{describe_blocks(shapes)}; `iiwa.released.load_blocks` loads the backbone and the blocks of "
        "equal shapes, and reports the rest"
    )
