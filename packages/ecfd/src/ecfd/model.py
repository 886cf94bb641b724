"""ECFD in the order of the paper (ecfd/PAPER 3): what it computes; `fusion.py` and `speed.py` say how.

RCE -> CICM and SICM, L times -> CLGD -> FPN -> the decode head and its five variants -> the network.
Notation: B1 to B4 channels of the backbone's levels, E of the tokens, C of the decoder, K classes. Context tokens X lie
on level 3, spatial tokens S on levels 2, 3 and 4.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ecfd.fusion import (
    PlainEmbedding,
    PositionGrid,
    Reader,
    SingleStreamFusion,
    TokenMLP,
    to_maps,
    to_tokens,
    token_norm,
)
from ecfd.recipes import BASE, LARGE, SMALL, TINY, ECFDModel
from ecfd.speed import FoldedFusion, Gate, OnResized
from segcore.backbones import backbone_of
from segcore.errors import check
from segcore.layers.fcn_head import FCNHead, pixel_classifier
from segcore.losses import SegmentationLoss
from segcore.recipe import Loss, Recipe
from segcore.segmentor import EncoderDecoder, Size, resize, size_of

_LEVELS = 4
_LOW_CHANNELS = 32


class RCE(nn.Module):
    """Reinforced context embedding: levels 2, 3 and 4 embedded, resized to level 3, concatenated and fused.

    Args:
        in_channels: of levels 2, 3 and 4.
        width: channels of each embedding: those of level 1, whatever the head's (ecfd/PAPER 3.2); C in ECFDSpatial.
        out_channels: of the fused map.

    Shapes:
        three maps (B, I_i, h_i, w_i) -> (B, out_channels, h_3, w_3)
    """

    def __init__(self, in_channels: Sequence[int], width: int, out_channels: int) -> None:
        super().__init__()
        second, third, fourth = in_channels
        # level 4's is a transposed convolution as published: its matrix lies the other way round, so its start differs
        last = nn.ConvTranspose2d(fourth, width, 1)
        self.embeddings = nn.ModuleList([nn.Conv2d(second, width, 1), nn.Conv2d(third, width, 1), last])
        self.fuse = nn.Conv2d(3 * width, out_channels, 1)
        self.folded = FoldedFusion(in_channels, width)

    def forward(self, second: Tensor, third: Tensor, fourth: Tensor) -> Tensor:
        # fuse(cat([resize(embedding(level), size) for each level])), for a third of the work
        size = size_of(third)
        return self.folded(second, third, fourth, embeddings=self.embeddings, fuse=self.fuse, size=size)


class CICM(Reader):
    """Context queries read the three spatial levels: X + gamma * attention(X, S); gamma starts at zero.

    Shapes:
        context (B, h_3 * w_3, E), spatial (B, S, E) -> context
    """

    def __init__(self, options: ECFDModel) -> None:
        super().__init__(options, levels=3)
        self.gamma = nn.Parameter(torch.zeros(options.embed_dim))

    def forward(self, context: Tensor, spatial: Tensor, sizes: Sequence[Size]) -> Tensor:
        return context + self.gamma * self.read(context, sizes[1:2], spatial, sizes)


class SICM(Reader):
    """Spatial queries read the context map, then an MLP; both are residual, without gamma.

    Shapes:
        spatial (B, S, E), context (B, h_3 * w_3, E) -> spatial
    """

    def __init__(self, options: ECFDModel) -> None:
        super().__init__(options, levels=1)
        self.mlp_norm = token_norm(options)
        self.mlp = TokenMLP(options.embed_dim, options.mlp_ratio)

    def forward(self, spatial: Tensor, context: Tensor, sizes: Sequence[Size]) -> Tensor:
        spatial = spatial + self.read(spatial, sizes, context, sizes[1:2])
        return spatial + self.mlp(self.mlp_norm(spatial), sizes)


class CrossFusionBlock(nn.Module):
    """CFB: new context from the spatial tokens (CICM), then new spatial tokens from the NEW context (SICM)."""

    def __init__(self, options: ECFDModel) -> None:
        super().__init__()
        self.cicm = CICM(options)
        self.sicm = SICM(options)

    def forward(self, spatial: Tensor, context: Tensor, sizes: Sequence[Size]) -> tuple[Tensor, Tensor]:
        """Return the new spatial and context tokens; `sizes` are those of levels 2, 3 and 4."""
        context = self.cicm(context, spatial, sizes)
        return self.sicm(spatial, context, sizes), context


class ConvBR(nn.Sequential):
    """Convolution without bias, batch norm and ReLU, initialized as PyTorch does."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class CLGD(nn.Module):
    """Cross-level gating decoder: the final context gates the finest level, and joins it (ecfd/PAPER 3.6).

    a = ConvBR(low), g = gate(a, high), out = ConvBR(ConvBR(cat(gamma * g * a, high))), with `high` resized to `low`.

    Args:
        channels: C of both inputs and of the output.

    Shapes:
        low (B, C, h_1, w_1), high (B, C, h, w) of any size -> (B, C, h_1, w_1)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.low = ConvBR(channels, _LOW_CHANNELS, 3)
        self.gate = Gate(_LOW_CHANNELS, channels)
        self.join = OnResized(ConvBR(_LOW_CHANNELS + channels, channels, 3))
        self.out = ConvBR(channels, channels, 3)
        self.gamma = nn.Parameter(torch.ones(1))

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        low = self.low(low)
        gated = self.gamma * self.gate(low, high) * low
        return self.out(self.join(gated, high, size=size_of(low)))


class FPN(nn.Module):
    """Top-down sums with lateral convolutions, an output convolution per level, one convolution of all outputs.

    Every resize has align_corners True, here and nowhere else (ecfd/PAPER 3.8). The running map is the sum, not the
    output; outputs are concatenated coarse to fine.

    Args:
        channels: C of every level and of the output.

    Shapes:
        four maps (B, C, h_i, w_i), fine to coarse -> (B, C, h_1, w_1)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.top = ConvBR(channels, channels, 3)
        self.laterals = nn.ModuleList(ConvBR(channels, channels, 1) for _ in range(3))
        self.outputs = nn.ModuleList(ConvBR(channels, channels, 3) for _ in range(3))
        self.fuse = OnResized(ConvBR(4 * channels, channels, 3), align_corners=True)

    def forward(self, *levels: Tensor) -> Tensor:
        running = self.top(levels[3])
        outputs = [running]
        for i in (2, 1, 0):
            running = resize(running, size_of(levels[i]), align_corners=True) + self.laterals[i](levels[i])
            outputs.append(self.outputs[i](running))
        return self.fuse(*outputs, size=size_of(levels[0]))


class Decoder(nn.Module):
    """What all six heads share; they differ in how levels 2, 3 and 4 are fused (ecfd/PAPER 3.10).

    Args:
        channels: of the backbone's last four levels, fine to coarse (B1 to B4).
        num_classes: K.
        options: variant, widths and depth of the head.

    Shapes:
        list of feature maps, the last four (B, B_i, h_i, w_i) -> (B, K, h_1, w_1)
    """

    up: nn.Module
    outputs: nn.ModuleList
    fpn: FPN

    def __init__(self, channels: Sequence[int], num_classes: int, options: ECFDModel) -> None:
        super().__init__()
        assert len(channels) == _LEVELS
        self.low = nn.Conv2d(channels[0], options.channels, 1)
        self.clgd = CLGD(options.channels)
        self.dropout = nn.Dropout2d(options.dropout)
        self.classifier = pixel_classifier(options.channels, num_classes)

    @abstractmethod
    def fused(self, levels: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the map that gates level 1, and the three maps of the FPN (none: there is no FPN)."""

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        finest, *levels = features[-_LEVELS:]
        high, maps = self.fused(levels)
        result = self.clgd(self.low(finest), self.up(high))  # (B, C, h_1, w_1)
        if maps:
            result = self.fpn(result, *_apply(self.outputs, maps))
        return self.classifier(self.dropout(result))


def _embedding(channels: Sequence[int], options: ECFDModel) -> nn.Module:
    """Return what gives the context map (B, E, h_3, w_3) of levels 2, 3 and 4."""
    if options.head in ("patch4", "general"):
        return PlainEmbedding(channels[3], options.embed_dim)
    return RCE(channels[1:], channels[0], options.embed_dim)


def _projections(channels: Sequence[int], options: ECFDModel) -> nn.ModuleList:
    """Return the 1x1 convolutions of levels 2, 3 and 4 to E channels."""
    return nn.ModuleList(nn.Conv2d(count, options.embed_dim, 1) for count in channels[1:])


def _outputs(options: ECFDModel) -> nn.ModuleList:
    """Return what brings the three fused levels from E to C channels: 1x1 convolution and batch norm, no activation."""
    width, channels = options.embed_dim, options.channels
    return nn.ModuleList(nn.Sequential(nn.Conv2d(width, channels, 1), nn.BatchNorm2d(channels)) for _ in range(3))


def _apply(modules: nn.ModuleList, maps: Sequence[Tensor]) -> list[Tensor]:
    return [module(x) for module, x in zip(modules, maps, strict=True)]


class ECFDHead(Decoder):
    """The paper's decoder; without RCE it is ECFDPatch4."""

    def __init__(self, channels: Sequence[int], num_classes: int, options: ECFDModel) -> None:
        super().__init__(channels, num_classes, options)
        self.projections = _projections(channels, options)
        self.rce = _embedding(channels, options)
        self.position = PositionGrid(options.position_grid, options.embed_dim)
        self.blocks = nn.ModuleList(CrossFusionBlock(options) for _ in range(options.depth))
        self.adds_context = options.context_to_levels
        self.up = nn.ConvTranspose2d(options.embed_dim, options.channels, 2, stride=2)
        self.outputs = _outputs(options)
        self.fpn = FPN(options.channels)

    def fused(self, levels: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        sizes = [size_of(level) for level in levels]
        spatial = to_tokens(_apply(self.projections, levels))  # (B, S, E)
        context = to_tokens([self.rce(*levels)]) + self.position(*sizes[1])  # (B, h_3 * w_3, E)
        contexts = []
        for block in self.blocks:
            spatial, context = block(spatial, context, sizes)
            contexts.append(context)
        maps = to_maps(spatial, sizes)
        if self.adds_context:  # the context after block i to level i + 1
            added = [to_maps(tokens, sizes[1:2])[0] for tokens in contexts]
            maps = [x + resize(y, size_of(x)) for x, y in zip(maps, added, strict=True)]
        return to_maps(context, sizes[1:2])[0], maps


class ECFDFPNHead(Decoder):
    """The baseline of the ablation: no context, no blocks; two 1x1 convolutions per level with nothing between."""

    def __init__(self, channels: Sequence[int], num_classes: int, options: ECFDModel) -> None:
        super().__init__(channels, num_classes, options)
        self.projections = _projections(channels, options)
        self.outputs = nn.ModuleList(nn.Conv2d(options.embed_dim, options.channels, 1) for _ in range(3))
        self.up = nn.Conv2d(channels[3], options.channels, 1)
        self.fpn = FPN(options.channels)

    def fused(self, levels: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        return levels[2], _apply(self.projections, levels)


class ECFDGeneralHead(Decoder):
    """One stream of context tokens at level 3, no FPN.

    Strategy 1 (ECFDGeneralFPN) has RCE; strategy 2 (ECFDGeneral) has a dilated backbone, levels 2 and 3 of one size.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, options: ECFDModel) -> None:
        super().__init__(channels, num_classes, options)
        self.rce = _embedding(channels, options)
        self.position = PositionGrid(options.position_grid, options.embed_dim)
        self.blocks = nn.ModuleList(SingleStreamFusion(options, levels=1) for _ in range(options.depth))
        self.up = nn.Conv2d(options.embed_dim, options.channels, 1)

    def fused(self, levels: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        size = size_of(levels[1])
        tokens = to_tokens([self.rce(*levels)]) + self.position(*size)  # (B, h_3 * w_3, E)
        for block in self.blocks:
            tokens = block(tokens, [size])
        return to_maps(tokens, [size])[0], []


class ECFDSpatialHead(Decoder):
    """Strategy 3: one stream of spatial tokens; RCE of the fused levels, at C channels, feeds the gate."""

    def __init__(self, channels: Sequence[int], num_classes: int, options: ECFDModel) -> None:
        super().__init__(channels, num_classes, options)
        self.projections = _projections(channels, options)
        self.blocks = nn.ModuleList(SingleStreamFusion(options, levels=3) for _ in range(options.depth))
        self.rce = RCE([options.embed_dim] * 3, options.channels, options.channels)
        self.up = nn.Identity()  # RCE gives C channels already
        self.outputs = _outputs(options)
        self.fpn = FPN(options.channels)

    def fused(self, levels: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        sizes = [size_of(level) for level in levels]
        tokens = to_tokens(_apply(self.projections, levels))  # (B, S, E)
        for block in self.blocks:
            tokens = block(tokens, sizes)
        maps = to_maps(tokens, sizes)
        return self.rce(*maps), maps


HEADS: dict[str, type[Decoder]] = {
    "ecfd": ECFDHead,
    "patch4": ECFDHead,
    "fpn": ECFDFPNHead,
    "general_fpn": ECFDGeneralHead,
    "general": ECFDGeneralHead,
    "spatial": ECFDSpatialHead,
}


class ECFD(EncoderDecoder):
    """ECFD and its variants: logits at the stride of the fourth-last feature level (4).

    Args:
        options: backbone, variant, width and depth of the head.
        num_classes: K.
        loss: training loss; the published one is plain cross entropy averaged over all pixels, 0.4 for the auxiliary.

    Raises:
        InputError: the backbone is unknown, has too few levels or the wrong strides, or its weights cannot be had.
    """

    def __init__(self, options: ECFDModel, num_classes: int, loss: Loss | None = None) -> None:
        settings = loss or Loss()
        backbone = backbone_of(options, levels=_LEVELS, paper="ECFD", **_backbone_changes(options))
        strides, channels = list(backbone.strides), backbone.channels[-_LEVELS:]
        check(
            options.head != "general" or strides[-3] == strides[-2],
            f"--model.head general needs levels 2 and 3 of one size, and {options.backbone} has strides {strides}; "
            "add --model.output-stride 8 on a ResNet",
        )
        head = HEADS[options.head](channels, num_classes, options)
        auxiliary = FCNHead(channels[2], options.auxiliary_channels, num_classes, index=-2, dropout=options.dropout)
        super().__init__(
            backbone,
            head,
            num_classes,
            SegmentationLoss(settings),
            nn.ModuleList([auxiliary]),
            settings.auxiliary,
            ("head.classifier.", "auxiliary.0.classifier."),
        )


def _backbone_changes(options: ECFDModel) -> dict[str, Any]:
    """Return what the published backbones are asked for (ecfd/PAPER 2); others keep their own defaults."""
    changes: dict[str, Any] = {}
    if options.backbone.startswith("convnext_"):
        changes |= {"output_norm": True, "ls_init_value": 1.0}  # Swin has its output norms by itself
    if options.drop_path > 0:
        changes["drop_path_rate"] = options.drop_path
    if options.output_stride != 32:
        changes["output_stride"] = options.output_stride
    return changes


def ecfd_tiny(num_classes: int = 19, **changes: Any) -> ECFD:
    """ECFD-tiny (E = 192) on ResNet-50. `changes` replaces options, e.g. `pretrained=False`."""
    return ECFD(replace(TINY, **changes), num_classes)


def ecfd_small(num_classes: int = 19, **changes: Any) -> ECFD:
    """ECFD-small (E = 384) on ResNet-50. `changes` replaces options."""
    return ECFD(replace(SMALL, **changes), num_classes)


def ecfd_base(num_classes: int = 19, **changes: Any) -> ECFD:
    """ECFD-base (E = 768) on ResNet-50. `changes` replaces options."""
    return ECFD(replace(BASE, **changes), num_classes)


def ecfd_large(num_classes: int = 19, **changes: Any) -> ECFD:
    """ECFD-large (E = 1024) on ResNet-50. `changes` replaces options."""
    return ECFD(replace(LARGE, **changes), num_classes)


def build(recipe: Recipe, num_classes: int) -> ECFD:
    """Return the network of a recipe with its initial weights."""
    assert isinstance(recipe.model, ECFDModel)
    return ECFD(recipe.model, num_classes, recipe.loss)
