"""Published tensor names of UN-EPT (unept/PAPER 6), and what tensor shapes tell about a checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace

from segcore.backbones import resnet_names, timm_names
from segcore.recipe import Model
from segcore.segmentor import Segmentor
from segcore.weights.names import NameMap, Shapes, count_parts, no_head
from unept.model import UNEPT, is_resnet_c
from unept.recipes import STRIDE, UNEPT_DEIT, UNEPT_R50, UNEPTModel

_SPATIAL = tuple(
    rename
    for i in range(3)
    for rename in (
        (rf"^head\.spatial\.{3 * i}\.", f"spatial_branch.convblock{i + 1}.conv1."),
        (rf"^head\.spatial\.{3 * i + 1}\.", f"spatial_branch.convblock{i + 1}.bn."),
    )
)
_HEAD = (
    *_SPATIAL,
    (r"^head\.boundary\.", "mask_head."),
    (r"^head\.direction\.", "dir_head."),
    (r"^head\.levels\.", "layers."),
    (r"^head\.query_embedding$", "query_embed.weight"),
    (r"^head\.classifier\.", "cls."),
    (r"^head\.context\.level_embedding$", "context_branch.level_embed"),
    (r"^head\.context\.(encoder|decoder)\.", r"context_branch.\1.layers."),
)
_ENCODER, _DECODER = r"^(context_branch\.encoder\.layers\.\d+)\.", r"^(context_branch\.decoder\.layers\.\d+)\."
_LAYERS = (
    (_ENCODER + r"attention\.deform\.", r"\1.self_attn."),
    (_ENCODER + r"attention_norm\.", r"\1.norm1."),
    (_ENCODER + r"feedforward_norm\.", r"\1.norm2."),
    (_DECODER + r"self_attention\.", r"\1.self_attn."),
    (_DECODER + r"cross_attention\.deform\.", r"\1.cross_attn."),
    (_DECODER + r"cross_norm\.", r"\1.norm1."),  # counted in another order than applied
    (_DECODER + r"self_norm\.", r"\1.norm2."),
    (_DECODER + r"feedforward_norm\.", r"\1.norm3."),
    (r"^(context_branch\..*)\.feedforward\.0\.", r"\1.linear1."),
    (r"^(context_branch\..*)\.feedforward\.3\.", r"\1.linear2."),
)

HEAD_RENAMES = (*_HEAD, *_LAYERS)
"""Our name -> published name, of everything but the backbone."""


def name_map(model: Segmentor) -> NameMap:
    """Return the published names of a network; those of another backbone than the published ones are timm's."""
    assert isinstance(model, UNEPT)
    return NameMap((*HEAD_RENAMES, *(resnet_names.RENAMES if is_resnet_c(model.options) else timm_names.RENAMES)))


def infer_model(options: Model, shapes: Shapes) -> Model:
    """Return the options a published checkpoint was made with: backbone, window, and width and depth of the context.

    Args:
        options: whatever shapes cannot tell is taken from here; of the number of heads they tell only its product with
            the points, and where that is another one, the published number is meant.
        shapes: published tensor name -> shape.

    Raises:
        InputError: if these are not the tensors of a UN-EPT network.
    """
    assert isinstance(options, UNEPTModel)
    layer = "context_branch.decoder.layers.0."
    wanted = (
        "query_embed.weight",
        "context_branch.level_embed",
        f"{layer}linear1.weight",
        f"{layer}cross_attn.attention_weights.weight",
    )
    found = [shapes.get(name) for name in wanted]
    queries, levels, hidden, samples = found
    if queries is None or levels is None or hidden is None or samples is None:
        raise no_head("UN-EPT head (query_embed and context_branch)", shapes)
    is_alike = samples[0] == options.heads * levels[0] * options.points
    heads = options.heads if is_alike else UNEPT_R50.heads
    backbone = options.backbone
    if "backbone.dist_token" in shapes:
        backbone = UNEPT_DEIT.backbone
    elif "backbone.stem.0.weight" in shapes:
        backbone = "resnet101c" if "backbone.layer3.22.conv1.weight" in shapes else UNEPT_R50.backbone
    return replace(
        options,
        backbone=backbone,
        window=STRIDE * math.isqrt(queries[0]),
        levels=levels[0],
        width=queries[1],
        heads=heads,
        points=samples[0] // (heads * levels[0]),
        feedforward=hidden[0],
        encoder_layers=count_parts(shapes, "context_branch.encoder.layers."),
        decoder_layers=count_parts(shapes, "context_branch.decoder.layers."),
    )
