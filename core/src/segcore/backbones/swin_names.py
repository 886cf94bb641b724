"""Tensor names of Swin Transformers: ours, timm's, and the two families of published checkpoints.

All maps take names with and without the `backbone.` that they have inside a segmentation model.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from segcore.weights.names import Companion, NameMap, Transform

_START = r"(^|backbone\.)"
_BLOCK = rf"({_START}stages\.\d+\.blocks\.\d+\.)"
_OUTPUT_NORMS = (rf"{_START}norms\.(\d)\.", r"\1norm\2.")
_CLASSIFIER = (r"norm\..*", r"head\..*")
_INDEX_TABLES = r"(backbone\.)?\w+\.\d+\.blocks\.\d+\..*(relative_position_index|attn_mask)"


def _index_table(attention: Any) -> Tensor:
    side = math.isqrt(attention.relative_position_index.numel())
    return attention.relative_position_index.view(side, side)


INDEX_TABLE = Companion("relative_position_bias_table$", "relative_position_index", _index_table)
"""Published beside every position table of attention in windows; ours compute it."""

MICROSOFT = NameMap(
    ((rf"{_START}stages\.", r"\1layers."), _OUTPUT_NORMS), (_INDEX_TABLES, *_CLASSIFIER), companions=(INDEX_TABLE,)
)
"""From our names to those of the original release, which ECFD's checkpoints have, too (ecfd/PAPER 6)."""

TIMM = NameMap(
    (
        # timm merges at the start of a stage, all others at the end of the one before
        *((rf"^stages\.{i}\.downsample\.", f"layers.{i + 1}.downsample.") for i in range(3)),
        *MICROSOFT.renames,
    ),
    MICROSOFT.dropped,
)


def _columns_to_ours(x: Tensor) -> Tensor:
    """Bring the merged channels (..., 4C) from channel-major to quarter-major order."""
    by_quarter = x.unflatten(-1, (-1, 4)).transpose(-1, -2)  # (..., 4, C), quarters row by row
    return by_quarter[..., [0, 2, 1, 3], :].flatten(-2)


def _columns_to_openmmlab(x: Tensor) -> Tensor:
    """Do the opposite of `_columns_to_ours`."""
    by_quarter = x.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
    return by_quarter.transpose(-1, -2).flatten(-2)


OPENMMLAB = NameMap(
    (
        (rf"{_START}patch_embed\.proj\.", r"\1patch_embed.projection."),
        (rf"{_BLOCK}attn\.", r"\1attn.w_msa."),
        (rf"{_BLOCK}mlp\.fc1\.", r"\1ffn.layers.0.0."),
        (rf"{_BLOCK}mlp\.fc2\.", r"\1ffn.layers.1."),
        _OUTPUT_NORMS,
    ),
    (_INDEX_TABLES, *_CLASSIFIER),
    (
        Transform(
            r"(backbone\.)?stages\.\d\.downsample\.(norm\.weight|norm\.bias|reduction\.weight)",
            _columns_to_ours,
            _columns_to_openmmlab,
        ),
    ),
    (INDEX_TABLE,),
)
"""From our names and column order to those of OpenMMLab, which IIWA's checkpoints have, too (iiwa/PAPER 2)."""
