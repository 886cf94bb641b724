"""Published tensor names of MemoryNet (memorynet/PAPER 6), and what tensor shapes tell about a checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from memorynet.context import PyramidPooling
from memorynet.model import MemorySegmentor
from memorynet.recipes import HRNET_W48, R50, R101, S101, VIT_L, MemoryNetModel
from segcore.backbones.hrnet import HRNet
from segcore.backbones.resnet_names import RENAMES as RESNET_RENAMES
from segcore.backbones.timm_names import RENAMES as TIMM_RENAMES
from segcore.backbones.vit_levels import MEMORYNET_RENAMES as TRANSFORMER_RENAMES
from segcore.backbones.vit_levels import TransformerLevels
from segcore.errors import InputError
from segcore.layers.fcn_head import FCNHead
from segcore.recipe import Model
from segcore.segmentor import Segmentor
from segcore.weights.names import NameMap, Shapes, count_parts, no_head

_CONTEXT = "context_within_image_module"

# Numbers in a published block: convolution and norm follow each other in a Sequential.
_BLOCK = ((r"\.conv\.(?=weight$|bias$)", ".0."), (r"\.bn\.(?=\w+$)", ".1."))
# The same behind a pooling layer.
_POOLED_BLOCK = ((r"\.conv\.(?=weight$|bias$)", ".1."), (r"\.bn\.(?=\w+$)", ".2."))

_HEAD_RENAMES = (
    (r"^levels\.norms\.", "norm_layers."),
    (r"^levels\.reduction\.", "downsample_backbone."),
    (r"^head\.first\.bottleneck\.", "bottleneck."),
    (r"^head\.first\.classify\.transform\.", "decoder_stage1."),
    (r"^head\.first\.classify\.classifier\.", "decoder_stage1.4."),
    (r"^head\.classify\.transform\.", "decoder_stage2."),
    (r"^head\.classify\.classifier\.", "decoder_stage2.4."),
    (r"^head\.memory\.rows$", "memory_module.memory"),
    (r"^head\.read\.fuse\.", "memory_module.fuse_memory_conv."),
    (r"^head\.read\.attentions\.", "memory_module.self_attentions."),
    (r"^head\.bottleneck\.", "memory_module.bottleneck."),
    (r"^head\.context_attention\.", "memory_module.self_attention_ms."),
    (r"^head\.context_bottleneck\.", "memory_module.bottleneck_ms."),
    (r"^head\.context\.bottleneck\.", f"{_CONTEXT}.bottleneck."),
    (r"^head\.context\.global_branch\.", f"{_CONTEXT}.global_branch."),
    # the published object context keeps its attention's parts without a prefix
    (r"^head\.context\.attention\.", f"{_CONTEXT}."),
    (rf"^((?:memory_module\.self_attention\w*(?:\.\d+)?|{_CONTEXT})\.)(key|query|value|out)\.", r"\1\2_project."),
)
_SINGLE_SLOT = (r"^memory_module\.self_attentions\.0\.", "memory_module.self_attention.")


def _numbered(prefix: str, rules: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Limit the rules of a block to names under a prefix (a regular expression)."""
    return tuple((rf"^({prefix}.*?){pattern}", rf"\1{number}") for pattern, number in rules)


def _branches(context: str) -> tuple[tuple[str, str], ...]:
    if context == "ppm":
        return (r"^head\.context\.branches\.", f"{_CONTEXT}.branches."), *_numbered(
            rf"{_CONTEXT}\.branches\.", _POOLED_BLOCK
        )
    return ((r"^head\.context\.branches\.", f"{_CONTEXT}.parallel_branches."),)


def _auxiliary(heads: int, num_convs: int) -> tuple[tuple[str, str], ...]:
    """Return the rules of auxiliary heads: all layers of one are numbered through.

    A convolution takes three numbers (convolution, norm, activation), or four where it is followed by an upsampling.
    """
    rules = [(r"^auxiliary\.0\.", "auxiliary_decoder.")] if heads == 1 else [(r"^auxiliary\.", "auxiliary_decoder.")]
    step = 3 if num_convs == 1 else 4
    for i in range(num_convs):
        rules += [
            (rf"^(auxiliary_decoder\..*?)convs\.{i}\.conv\.", rf"\g<1>{step * i}."),
            (rf"^(auxiliary_decoder\..*?)convs\.{i}\.bn\.", rf"\g<1>{step * i + 1}."),
        ]
    rules.append((r"^(auxiliary_decoder\.(?:\d+\.)?)classifier\.", rf"\g<1>{step * num_convs + 1}."))
    return tuple(rules)


def name_map(model: Segmentor) -> NameMap:
    """Return the published names of a network; those of other backbones than the published ones are timm's."""
    assert isinstance(model, MemorySegmentor)
    heads = [head for head in model.auxiliary or () if isinstance(head, FCNHead)]
    context = "ppm" if isinstance(model.head.context, PyramidPooling) else ""
    backbone = RESNET_RENAMES
    if isinstance(model.backbone, TransformerLevels):
        backbone = TRANSFORMER_RENAMES
    elif isinstance(model.backbone, HRNet):
        backbone = TIMM_RENAMES
    return NameMap(
        (
            *backbone,
            (r"^backbone\.", "backbone_net."),
            *_HEAD_RENAMES,
            *((_SINGLE_SLOT,) if model.head.memory.settings.slots == 1 else ()),
            *_branches(context),
            *_auxiliary(len(heads), len(heads[0].convs) if heads else 1),
            *_numbered(rf"{_CONTEXT}\.global_branch", _POOLED_BLOCK),
            *_numbered(r"(?!backbone_net\.)", _BLOCK),
        ),
        ours_only=(r"head\.memory\.num_batches_tracked",),
        container="model",
    )


def infer_model(options: Model, shapes: Shapes) -> Model:
    """Return the options a published checkpoint was made with, as far as its shapes tell them.

    Dilations, activation and everything about training are taken from `options`: no tensor tells them. So the recipe of
    ViT on COCO-Stuff 10k has the dilations its weights were most likely trained with (memorynet/PAPER 8).

    Raises:
        InputError: if these are not the tensors of a MemoryNet.
    """
    assert isinstance(options, MemoryNetModel)
    memory = shapes.get("memory_module.memory")
    if memory is None or len(memory) != 3 or "decoder_stage2.4.weight" not in shapes:
        raise no_head("MemoryNet head (memory_module, decoder_stage2)", shapes)
    attention = "self_attention" if memory[1] == 1 else "self_attentions.0"
    query = shapes.get(f"memory_module.{attention}.query_project.0.0.weight", (options.attention_width,))
    found = replace(
        options,
        slots=memory[1],
        width=memory[2],
        attention_width=query[0],
        context=_context_of(shapes),
        auxiliary=_has(shapes, "auxiliary_decoder."),
        **_backbone_of(options, shapes),
    )
    branches = count_parts(shapes, f"{_CONTEXT}.parallel_branches.")
    if found.context == "aspp" and branches != len(found.dilations):
        raise InputError(
            f"the checkpoint has {branches} branches of dilated convolutions, --model.dilations names "
            f"{len(found.dilations)}; give the dilations that it was trained with"
        )
    return found


def _has(shapes: Shapes, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in shapes)


def _context_of(shapes: Shapes) -> Any:
    for part, context in (("parallel_branches.", "aspp"), ("branches.", "ppm"), ("key_project.", "ocr")):
        if _has(shapes, f"{_CONTEXT}.{part}"):
            return context
    return "none"


def _backbone_of(options: MemoryNetModel, shapes: Shapes) -> dict[str, Any]:
    """Return the options that name the backbone; nothing where the file's is none of the published ones."""
    published = None
    if "backbone_net.cls_token" in shapes:
        published = VIT_L
    elif "backbone_net.stage4.0.fuse_layers.0.1.0.weight" in shapes:
        published = HRNET_W48
    elif "backbone_net.layer1.0.conv2.fc1.weight" in shapes:
        published = S101
    elif "backbone_net.stem.0.weight" in shapes:
        published = {6: R50, 23: R101}.get(count_parts(shapes, "backbone_net.layer3."))
    if published is None or _width_of(shapes) != _WIDTHS[published.backbone]:
        return {}
    changes: dict[str, Any] = {
        "backbone": published.backbone,
        "levels": published.levels,
        "output_stride": published.output_stride,
        "transformer_layers": published.transformer_layers,
        "image_size": 0,
        "reduction": _has(shapes, "downsample_backbone."),
    }
    if published is VIT_L:
        side = math.isqrt(shapes["backbone_net.pos_embed"][1] - 1)
        patch = shapes["backbone_net.patch_embed.projection.weight"][-1]
        is_same = options.image_size // patch == side  # 473 and 464 have the same table
        changes["image_size"] = options.image_size if is_same else side * patch
    return changes


_WIDTHS = {R50.backbone: 2048, R101.backbone: 2048, S101.backbone: 2048, HRNET_W48.backbone: 720, VIT_L.backbone: 1024}
"""Channels of the map that the head sees."""


def _width_of(shapes: Shapes) -> int:
    shape = shapes.get("bottleneck.0.weight", (0, 0))
    return shape[1]
