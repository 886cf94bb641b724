"""ImageNet weights of Swin Transformers, from timm or from a file in any of the names in use."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from segcore.backbones.named_weights import load_named, read_backbone_tensors
from segcore.backbones.pretrained import create_timm_model
from segcore.backbones.swin_names import MICROSOFT, OPENMMLAB, TIMM
from segcore.weights.names import NameMap

_TABLE = "relative_position_bias_table"


def load_imagenet_weights(backbone: nn.Module, name: str, weights: str) -> None:
    """Fill a Swin with ImageNet weights, strictly; its output norms start anew where a classifier has none.

    Args:
        name: timm's name of the model.
        weights: file with timm's, Microsoft's or OpenMMLab's names; empty gets timm's weights.

    Raises:
        InputError: if the file is not one of this model, or there is no network.
    """
    if weights:
        tensors = read_backbone_tensors(weights)
    else:
        tensors = create_timm_model(name, pretrained=True, weights="").state_dict()
    name_map = imagenet_map(tensors)
    load_named(backbone, name, weights, _fit_tables(backbone, tensors, name_map), name_map, new=("norms.",))


def imagenet_map(names: Collection[str]) -> NameMap:
    """Return the map from our names to those of a file, told by how it calls the patches and the first merging."""
    if "patch_embed.projection.weight" in names:
        return OPENMMLAB
    return MICROSOFT if "layers.0.downsample.norm.weight" in names else TIMM


def _fit_tables(backbone: nn.Module, tensors: Mapping[str, Tensor], name_map: NameMap) -> dict[str, Tensor]:
    """Return the tensors with all position tables stretched to the backbone's windows."""
    fitted = dict(tensors)
    for name, own in backbone.state_dict().items():
        published = name_map.to_published(name)
        if name.endswith(_TABLE) and published in fitted:
            fitted[published] = resize_table(fitted[published], math.isqrt(own.shape[0]))
    return fitted


def resize_table(table: Tensor, side: int) -> Tensor:
    """Stretch a position table (s * s, heads) to (side * side, heads), bicubic, each head by itself."""
    own = math.isqrt(table.shape[0])
    if own == side:
        return table
    grid = table.T.unflatten(-1, (own, own))[None]  # (1, heads, s, s)
    return F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)[0].flatten(1).T
