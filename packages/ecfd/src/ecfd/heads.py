"""ECFD's decode head and its five variants, in the order of the paper (ecfd/PAPER 3).

RCE -> CICM and SICM, L times -> CLGD -> FPN -> classifier. What differs between the variants is ecfd/PAPER 3.10.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ecfd.clgd import CLGD
from ecfd.fpn import FPN
from ecfd.fusion import CrossFusionBlock, SingleStreamFusion
from ecfd.options import ECFDModel
from ecfd.rce import RCE, PlainEmbedding, PositionGrid
from ecfd.tokens import Size, size_of, to_maps, to_tokens
from segcore.segmentor import resize

_LEVELS = 4


class Decoder(nn.Module):
    """What all six heads share: the gated finest level and the classifier.

    Args:
        channels: of the backbone's last four levels, fine to coarse (B1 to B4).
        num_classes: K.
        options: widths and depth of the head.

    Shapes:
        list of feature maps, the last four (B, B_i, h_i, w_i) -> (B, K, h_1, w_1)
    """

    up: nn.Module

    def __init__(self, channels: Sequence[int], num_classes: int, options: ECFDModel) -> None:
        super().__init__()
        assert len(channels) == _LEVELS
        self.low = nn.Conv2d(channels[0], options.channels, 1)
        self.clgd = CLGD(options.channels)
        self.dropout = nn.Dropout2d(options.dropout)
        self.classifier = nn.Conv2d(options.channels, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)  # pyright: ignore[reportArgumentType]

    def gated(self, finest: Tensor, high: Tensor) -> Tensor:
        """Return level 1 gated by a coarser map: (B, B1, h_1, w_1), (B, *, h, w) -> (B, C, h_1, w_1)."""
        return self.clgd(self.low(finest), self.up(high))

    def classify(self, fused: Tensor) -> Tensor:
        """(B, C, h_1, w_1) -> logits (B, K, h_1, w_1)."""
        return self.classifier(self.dropout(fused))


def _projections(channels: Sequence[int], width: int) -> nn.ModuleList:
    """Return the 1x1 convolutions of levels 2, 3 and 4 to E channels."""
    return nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels[1:])


def _outputs(width: int, channels: int) -> nn.ModuleList:
    """Return what brings the three fused levels from E to C channels: 1x1 convolution and batch norm, no activation."""
    return nn.ModuleList(nn.Sequential(nn.Conv2d(width, channels, 1), nn.BatchNorm2d(channels)) for _ in range(3))


def _apply(modules: nn.ModuleList, maps: Sequence[Tensor]) -> list[Tensor]:
    return [module(x) for module, x in zip(modules, maps, strict=True)]


def _sizes(maps: Sequence[Tensor]) -> list[Size]:
    return [size_of(x) for x in maps]


class ECFDHead(Decoder):
    """The paper's decoder."""

    def __init__(self, channels: Sequence[int], num_classes: int, options: ECFDModel) -> None:
        super().__init__(channels, num_classes, options)
        width = options.embed_dim
        self.projections = _projections(channels, width)
        self.rce = self._embedding(channels, width)
        self.position = PositionGrid(options.position_grid, width)
        self.blocks = nn.ModuleList(
            CrossFusionBlock(width, options.heads, options.points, options.value_ratio, options.mlp_ratio)
            for _ in range(options.depth)
        )
        self.adds_context = options.context_to_levels
        self.up = nn.ConvTranspose2d(width, options.channels, 2, stride=2)
        self.outputs = _outputs(width, options.channels)
        self.fpn = FPN(options.channels)

    @staticmethod
    def _embedding(channels: Sequence[int], width: int) -> nn.Module:
        return RCE((channels[1], channels[2], channels[3]), channels[0], width)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        finest, *levels = features[-_LEVELS:]
        sizes = _sizes(levels)
        spatial = to_tokens(_apply(self.projections, levels))  # (B, S, E)
        context = to_tokens([self.rce(*levels)]) + self.position(*sizes[1])  # (B, h_3 * w_3, E)
        contexts = []
        for block in self.blocks:
            spatial, context = block(spatial, context, sizes)
            contexts.append(context)
        maps = to_maps(spatial, sizes)
        if self.adds_context:
            maps = self._add(maps, contexts)
        (context_map,) = to_maps(context, sizes[1:2])
        gated = self.gated(finest, context_map)
        return self.classify(self.fpn(gated, *_apply(self.outputs, maps)))

    @staticmethod
    def _add(maps: Sequence[Tensor], contexts: Sequence[Tensor]) -> list[Tensor]:
        """Add the context after block i to level i + 1 (`add_context_information`, off in every published run)."""
        size = size_of(maps[1])
        added = [to_maps(tokens, [size])[0] for tokens in contexts]
        return [x + resize(context, size_of(x)) for x, context in zip(maps, added, strict=True)]


class ECFDPatch4Head(ECFDHead):
    """ECFD without RCE: the context is level 4 alone."""

    @staticmethod
    def _embedding(channels: Sequence[int], width: int) -> nn.Module:
        return PlainEmbedding(channels[3], width)


class ECFDFPNHead(Decoder):
    """The baseline of the ablation: no context, no blocks; two 1x1 convolutions per level with nothing between."""

    def __init__(self, channels: Sequence[int], num_classes: int, options: ECFDModel) -> None:
        super().__init__(channels, num_classes, options)
        self.projections = _projections(channels, options.embed_dim)
        self.outputs = nn.ModuleList(nn.Conv2d(options.embed_dim, options.channels, 1) for _ in range(3))
        self.up = nn.Conv2d(channels[3], options.channels, 1)
        self.fpn = FPN(options.channels)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        finest, *levels = features[-_LEVELS:]
        maps = _apply(self.outputs, _apply(self.projections, levels))
        return self.classify(self.fpn(self.gated(finest, levels[2]), *maps))


class ECFDGeneralFPNHead(Decoder):
    """Strategy 1: one stream of context tokens from RCE at level 3, no FPN."""

    def __init__(self, channels: Sequence[int], num_classes: int, options: ECFDModel) -> None:
        super().__init__(channels, num_classes, options)
        width = options.embed_dim
        self.rce = self._embedding(channels, width)
        self.position = PositionGrid(options.position_grid, width)
        self.blocks = nn.ModuleList(
            SingleStreamFusion(width, 1, options.heads, options.points, options.value_ratio)
            for _ in range(options.depth)
        )
        self.up = nn.Conv2d(width, options.channels, 1)

    @staticmethod
    def _embedding(channels: Sequence[int], width: int) -> nn.Module:
        return RCE((channels[1], channels[2], channels[3]), channels[0], width)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        finest, *levels = features[-_LEVELS:]
        size = size_of(levels[1])
        tokens = to_tokens([self.rce(*levels)]) + self.position(*size)  # (B, h_3 * w_3, E)
        for block in self.blocks:
            tokens = block(tokens, [size])
        (context,) = to_maps(tokens, [size])
        return self.classify(self.gated(finest, context))


class ECFDGeneralHead(ECFDGeneralFPNHead):
    """Strategy 2: as strategy 1 without RCE, on a dilated backbone, whose levels 2 and 3 have one size."""

    @staticmethod
    def _embedding(channels: Sequence[int], width: int) -> nn.Module:
        return PlainEmbedding(channels[3], width)


class ECFDSpatialHead(Decoder):
    """Strategy 3: one stream of spatial tokens; RCE of the fused levels, at C channels, feeds the gate."""

    def __init__(self, channels: Sequence[int], num_classes: int, options: ECFDModel) -> None:
        super().__init__(channels, num_classes, options)
        width = options.embed_dim
        self.projections = _projections(channels, width)
        self.blocks = nn.ModuleList(
            SingleStreamFusion(width, 3, options.heads, options.points, options.value_ratio)
            for _ in range(options.depth)
        )
        self.rce = RCE((width, width, width), options.channels, options.channels)
        self.up = nn.Identity()  # RCE gives C channels already
        self.outputs = _outputs(width, options.channels)
        self.fpn = FPN(options.channels)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        finest, *levels = features[-_LEVELS:]
        sizes = _sizes(levels)
        tokens = to_tokens(_apply(self.projections, levels))  # (B, S, E)
        for block in self.blocks:
            tokens = block(tokens, sizes)
        maps = to_maps(tokens, sizes)
        gated = self.gated(finest, self.rce(*maps))
        return self.classify(self.fpn(gated, *_apply(self.outputs, maps)))


HEADS: dict[str, type[Decoder]] = {
    "ecfd": ECFDHead,
    "patch4": ECFDPatch4Head,
    "fpn": ECFDFPNHead,
    "general_fpn": ECFDGeneralFPNHead,
    "general": ECFDGeneralHead,
    "spatial": ECFDSpatialHead,
}
