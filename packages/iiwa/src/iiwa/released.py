"""Checkpoints of the authors' own code: what of them can be told, since neck and decoder were never released.

Names inside a block are known, its place in the network is not: blocks are recognized by the names and shapes of their
tensors, and everything else is reported (iiwa/PAPER 6).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from segcore.errors import InputError
from segcore.segmentor import Segmentor
from segcore.weights.names import NameMap

Shape = tuple[int, ...]
_SHOWN = 6
_HEAD = ("neck.", "decode_head.")
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

_LAYERS = r"avgpool_[qk]\.1|qkv2?|[qkv]_lin2?|proj[12]?\.[01]|norm[12]|mlp\.fc[12]"
_LEAF = re.compile(rf"(.*?)\.(relative_position_(?:bias_table|index)|(?:{_LAYERS})\.(?:weight|bias))")
_KINDS = {  # what tells a block, the first that fits
    "self-IIWA": {"relative_position_bias_table", "qkv.weight", "qkv2.weight"},
    "cross-IIWA": {"relative_position_bias_table", "q_lin.weight", "q_lin2.weight"},
    "fusion 2": {"avgpool_q.1.weight", "q_lin.weight", "proj2.1.weight"},
    "fusion 1": {"q_lin.weight", "q_lin2.weight", "mlp.fc1.weight"},
}


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


def describe_blocks(shapes: Mapping[str, Shape]) -> str:
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


def _signature(place: str, leaves: Sequence[str], tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
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
