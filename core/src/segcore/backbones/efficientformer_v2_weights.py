"""ImageNet weights of EfficientFormerV2: tensor names of its authors and of timm, and where to get them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcore.backbones.position_bias import PositionBias
from segcore.backbones.pretrained import create_timm_model
from segcore.errors import InputError
from segcore.weights.files import read_checkpoint
from segcore.weights.names import Companion, NameMap, Transform

_POOLED = r"(token_mixer|attn)\.(q|k|v|v_local|stride_conv)"

# Our name -> the authors' name, regular expressions in order (cgrseg/PAPER 2.5). Their stages and downsamplers share
# one list: stage i is network.(2i), the downsampler into it network.(2i - 1).
REFERENCE_RENAMES: tuple[tuple[str, str], ...] = (
    (r"stem\.conv1\.conv\.", "patch_embed.0."),
    (r"stem\.conv1\.bn\.", "patch_embed.1."),
    (r"stem\.conv2\.conv\.", "patch_embed.3."),
    (r"stem\.conv2\.bn\.", "patch_embed.4."),
    (r"stages\.1\.downsample\.conv\.conv\.", "network.1.proj."),
    (r"stages\.1\.downsample\.conv\.bn\.", "network.1.norm."),
    (r"stages\.2\.downsample\.conv\.conv\.", "network.3.proj."),
    (r"stages\.2\.downsample\.conv\.bn\.", "network.3.norm."),
    (r"stages\.3\.downsample\.conv\.", "network.5."),
    (r"stages\.3\.downsample\.attn\.", "network.5.attn."),
    *((rf"stages\.{i}\.blocks\.", f"network.{2 * i}.") for i in range(4)),
    (r"attn\.q\.local\.", "attn.q.local.0."),
    (r"attn\.q\.proj\.conv\.", "attn.q.proj.0."),
    (r"attn\.q\.proj\.bn\.", "attn.q.proj.1."),
    (rf"{_POOLED}\.conv\.", r"\1.\2.0."),
    (rf"{_POOLED}\.bn\.", r"\1.\2.1."),
    (r"(token_mixer|attn)\.proj\.conv\.", r"\1.proj.1."),
    (r"(token_mixer|attn)\.proj\.bn\.", r"\1.proj.2."),
    (r"mlp\.(fc1|mid|fc2)\.conv\.", r"mlp.\1."),
    (r"mlp\.fc1\.bn\.", "mlp.norm1."),
    (r"mlp\.mid\.bn\.", "mlp.mid_norm."),
    (r"mlp\.fc2\.bn\.", "mlp.norm2."),
    (r"ls1\.gamma$", "layer_scale_1"),
    (r"ls2\.gamma$", "layer_scale_2"),
    (r"position_bias\.table$", "attention_biases_seg"),
)


def _unused(bias: PositionBias) -> PositionBias:
    """Return the position bias of a 224x224 image, which segmentation checkpoints have and never read."""
    with torch.device(bias.table.device):
        return PositionBias(bias.table.shape[0], bias.grid * 224 // 512, bias.stride)


REFERENCE = NameMap(
    REFERENCE_RENAMES,
    transforms=(Transform(r".*\.layer_scale_[12]", torch.flatten, lambda scale: scale[:, None, None]),),
    companions=(
        Companion("_biases_seg$", "_biases", lambda bias: _unused(bias).table.detach()),
        Companion("_biases_seg$", "_bias_idxs", lambda bias: _unused(bias).index()),
        Companion("_biases_seg$", "_bias_idxs_seg", lambda bias: bias.index()),
    ),
)
"""From our names to those of segmentation checkpoints."""
_TABLES = (r".*\.attention_biases", r".*\.attention_bias_idxs(_seg)?")
_CLASSIFIERS = (r"norm\..*", r"head\..*", r"head_dist\..*", r"dist_head\..*")
_AUTHORS = NameMap((*REFERENCE_RENAMES, (r"_seg$", "")), (*_TABLES, *_CLASSIFIERS))
_TIMM = NameMap(((r"position_bias\.table$", "attention_biases"),), (*_TABLES, *_CLASSIFIERS))
_TABLE = "position_bias.table"


def load_imagenet_weights(
    backbone: nn.Module, name: str, weights: str, position_tables: Literal["zero", "resampled"]
) -> None:
    """Fill a backbone with ImageNet weights, strictly.

    Args:
        name: timm's name of the variant.
        weights: file with the authors' or timm's names; empty gets timm's weights.
        position_tables: leave the position tables as they are (the published start), or stretch those of the file.

    Raises:
        InputError: if the file is not one of this variant, or there is no network.
    """
    if weights:
        tensors: Mapping[str, Tensor] = read_checkpoint(weights).tensors
    else:
        tensors = create_timm_model(name, pretrained=True, weights="").state_dict()
    name_map = _AUTHORS if any(key.startswith("patch_embed.") for key in tensors) else _TIMM
    match = name_map.match(backbone, tensors)
    tables = {key for key in backbone.state_dict() if key.endswith(_TABLE)}
    shapes = [wrong for wrong in match.wrong_shapes if wrong.name not in tables]
    missing = [key for key in match.missing if not key.endswith("attention_biases")]
    if shapes or missing or match.unexpected:
        raise InputError(f"--model.weights {weights or name} does not fit {name}: {match.problem()}")
    loaded = {key: value for key, value in match.tensors.items() if key not in tables}
    backbone.load_state_dict(loaded, strict=False)  # what may be missing was settled above
    if position_tables == "resampled":
        _resample_tables(backbone, {key: tensors[name_map.to_published(key)] for key in tables})


def _resample_tables(backbone: nn.Module, tables: Mapping[str, Tensor]) -> None:
    """Stretch tables over the offsets of a smaller grid to ours: the shortest and longest offsets keep theirs."""
    state = backbone.state_dict()
    for name, table in tables.items():
        ours, theirs = (math.isqrt(t.shape[-1]) for t in (state[name], table))
        image = table.reshape(1, -1, theirs, theirs)
        state[name].copy_(F.interpolate(image, size=(ours, ours), mode="bilinear", align_corners=True)[0].flatten(1))
