"""Published tensor names of IIWA (iiwa/PAPER 2, 3 and 6), and what a file's tensors tell about it.

Names of the backbone and inside every block are the released ones. The containers of neck and decoder were never
released: `neck.trf{1,2,3}s` (a public predecessor's) and everything right under `decode_head` are ours. In a file of
the authors' own code, blocks are recognized by the names and shapes of their tensors, and all the rest is reported.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from iiwa.recipes import IIWA_B, IIWA_L, IIWA_S, IIWAModel
from segcore.backbones import create_backbone
from segcore.backbones.swin import Swin
from segcore.backbones.swin_names import INDEX_TABLE, OPENMMLAB
from segcore.errors import InputError
from segcore.recipe import Model
from segcore.segmentor import Segmentor
from segcore.weights.names import NameMap, Shapes, Transform, count_parts, no_head

_CROSS = {f"{ours}_{x}": f"{x}_lin{number}" for ours, number in (("intra", ""), ("inter", "2")) for x in "qkv"}
ATTENTION_LEAVES: dict[str, str] = {
    "bias.relative_position_bias_table": "relative_position_bias_table",
    "intra_qkv": "qkv",
    "inter_qkv": "qkv2",
    **_CROSS,
    "intra_proj": "proj",
    "inter_proj": "proj2",
}
"""Our name -> published name inside self- and cross-IIWA; norm1, norm2 and mlp are called the same."""
FUSION_LEAVES: dict[str, str] = {
    "query_pool": "avgpool_q.1",
    "key_pool": "avgpool_k.1",
    **_CROSS,
    "shortcut": "proj",
    "intra_proj": "proj1",
    "inter_proj": "proj2",
}
"""Our name -> published name inside a fusion block."""

POOLS = Transform(r"(.*\.)?avgpool_[qk]\.1\.weight", lambda x: x.flatten(1), lambda x: x[:, :, None, None])
"""The published pooling projects with a 1x1 convolution, ours with a linear layer."""

_HEAD_RENAMES = (
    *((rf"^head\.neck\.fuse{i}\.", f"neck.trf{4 - i}s.") for i in (1, 2, 3)),  # the deepest fusion runs first
    (r"^head\.decoder\.", "decode_head."),
)
_LAYERS = r"avgpool_[qk]\.1|qkv2?|[qkv]_lin2?|proj[12]?\.[01]|norm[12]|mlp\.fc[12]"
_LEAF = re.compile(rf"(.*?)\.(relative_position_(?:bias_table|index)|(?:{_LAYERS})\.(?:weight|bias))")
_KINDS = {  # what tells a block, the first that fits
    "self-IIWA": {"relative_position_bias_table", "qkv.weight", "qkv2.weight"},
    "cross-IIWA": {"relative_position_bias_table", "q_lin.weight", "q_lin2.weight"},
    "fusion 2": {"avgpool_q.1.weight", "q_lin.weight", "proj2.1.weight"},
    "fusion 1": {"q_lin.weight", "q_lin2.weight", "mlp.fc1.weight"},
}
_HEAD = ("neck.", "decode_head.")
_SHOWN = 6  # names listed in a message


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
        names = OPENMMLAB.with_renames(*head)
        return replace(names, transforms=(*names.transforms, POOLS))
    return NameMap(head, transforms=(POOLS,), companions=(INDEX_TABLE,))


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
        raise _unknown_containers(shapes)
    embed_dim = shapes["decode_head.query_embed.weight"][0]
    expanded, query_dim = shapes["decode_head.head.expand.weight"][:2]
    return replace(
        found,
        embed_dim=embed_dim,
        query_dim=query_dim,
        head_scale=expanded // query_dim,
        decoder_depth=count_parts(shapes, "decode_head.stages."),
        fusion_rounds=count_parts(shapes, "neck.trf1s."),
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
        depths=tuple(count_parts(shapes, f"backbone.stages.{i}.blocks.") for i in stages),
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


def _unknown_containers(shapes: Shapes) -> InputError:
    if not any(name.startswith(_HEAD) for name in shapes):
        return no_head("IIWA head (neck, decode_head)", shapes)
    return InputError(
        "its neck and decoder are not stored as ours are; how the released ones are was never published. "
        f"{describe_blocks(shapes)}; `iiwa.names.load_blocks` loads the backbone and the blocks of "
        "equal shapes, and reports the rest"
    )


@dataclass(frozen=True)
class BlockReport:
    """What became of a released checkpoint.

    Attributes:
        loaded: place of a block of ours, as `name_map` calls it -> place in the file.
        missing: tensors of ours, by their published names, that kept their values.
        left_over: tensors of the file that were not used.
    """

    loaded: dict[str, str]
    missing: tuple[str, ...]
    left_over: tuple[str, ...]


def find_blocks(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the places under neck and decode_head that hold a known block: place -> names inside it."""
    found: dict[str, list[str]] = {}
    for name in names:
        match = _LEAF.fullmatch(name) if name.startswith(_HEAD) else None
        if match:
            found.setdefault(match[1], []).append(match[2])
    return {place: found[place] for place in sorted(found, key=_natural) if _kind(found[place])}


def describe_blocks(shapes: Shapes) -> str:
    """Say which blocks a checkpoint holds, and which tensors of neck and decoder belong to none."""
    blocks = find_blocks(shapes)
    used = {f"{place}.{leaf}" for place, leaves in blocks.items() for leaf in leaves}
    left = [name for name in shapes if name.startswith(_HEAD) and name not in used]
    listed = [f"{place} ({_kind(leaves)})" for place, leaves in blocks.items()]
    recognized = f"{len(blocks)} blocks are recognized by their tensors ({_first(listed)})"
    return f"{recognized}, {len(left)} tensors belong to none ({_first(left)})"


def load_blocks(model: Segmentor, tensors: Mapping[str, Tensor], name_map: NameMap) -> BlockReport:
    """Load the backbone of a released checkpoint strictly, and of the rest the blocks that equal ours tensor by tensor.

    Blocks of equal shapes are taken in the order of the names of their places. Nothing tells whether that is the order
    in which the authors' network runs them, nor whether stem and classifier are like ours: this is no full load.

    Args:
        tensors: published name -> tensor.
        name_map: of the model.

    Raises:
        InputError: if the backbone is not the model's.
    """
    loaded = _backbone(model, tensors, name_map)
    own = {name_map.to_published(name): name for name in model.state_dict()}
    state = model.state_dict()
    places = {place: _signature(place, leaves, tensors) for place, leaves in find_blocks(tensors).items()}
    free = list(places)
    matched: dict[str, str] = {}
    for block, leaves in find_blocks(own).items():
        wanted = _signature(block, leaves, {name: state[ours] for name, ours in own.items()})
        place = next((place for place in free if places[place] == wanted), None)
        if place is not None:
            free.remove(place)
            matched[block] = place
            for leaf in leaves:
                ours = own[f"{block}.{leaf}"]
                loaded[ours] = tensors[f"{place}.{leaf}"].reshape(state[ours].shape)
    model.load_state_dict(loaded, strict=False)  # what is left is reported
    used = tuple(f"{place}." for place in matched.values())
    left = tuple(name for name in tensors if not name.startswith(("backbone.", *used)))
    return BlockReport(matched, tuple(name for name, ours in own.items() if ours not in loaded), left)


def _backbone(model: Segmentor, tensors: Mapping[str, Tensor], name_map: NameMap) -> dict[str, Tensor]:
    """Return the backbone's tensors by our names, all of them."""
    found = name_map.match(model, {name: tensor for name, tensor in tensors.items() if name.startswith("backbone.")})
    missing = tuple(name for name in found.missing if name.startswith("backbone."))
    if missing or found.unexpected or found.wrong_shapes:
        problem = replace(found, missing=missing).problem()
        raise InputError(f"the tensors are not those of this backbone: {problem}")
    return found.tensors


def _signature(place: str, leaves: Sequence[str], tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of a block, 1x1 convolutions as matrices."""
    shapes = {leaf: tuple(tensors[f"{place}.{leaf}"].shape) for leaf in leaves if not leaf.endswith("_index")}
    return {leaf: shape[:2] for leaf, shape in shapes.items()}


def _kind(leaves: Sequence[str]) -> str:
    return next((kind for kind, needed in _KINDS.items() if needed <= set(leaves)), "")


def _natural(name: str) -> list[tuple[int, str]]:
    """Order names by their numbers: stage 10 after stage 9."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _first(names: Sequence[str]) -> str:
    listed = ", ".join(names[:_SHOWN]) or "none"
    return listed if len(names) <= _SHOWN else f"{listed}, and {len(names) - _SHOWN} more"
