"""The decoder: a query map refined by self-IIWA and multi-scale cross-IIWA; iiwa/PAPER 3.9.

The attention blocks are the released ones; how they are put together (published class `GTR_DECODER3`) is a
reconstruction, and so are stem, auxiliary classifier and sub-pixel head.
"""

from __future__ import annotations

from collections.abc import Sequence

from einops import rearrange
from torch import Tensor, nn

from iiwa.attention import CrossIIWA, Memory, SelfIIWA, prepare_memory
from iiwa.recipes import IIWAModel


class DecoderStage(nn.Module):
    """Self-IIWA of the query, then cross-IIWA with the memory.

    Shapes:
        query (B, H, W, D) -> (B, H, W, D)
    """

    def __init__(self, options: IIWAModel, drop_path: float) -> None:
        super().__init__()
        self.self_attn, self.cross_attn = (
            block(
                options.query_dim,
                options.decoder_window,
                options.decoder_heads,
                mlp_ratio=options.decoder_mlp_ratio,
                attn_dropout=options.decoder_attn_dropout,
                dropout=options.decoder_dropout,
                drop_path=drop_path,
            )
            for block in (SelfIIWA, CrossIIWA)
        )

    def forward(self, query: Tensor, memory: Memory) -> Tensor:
        return self.cross_attn(self.self_attn(query), memory)


class SubpixelHead(nn.Module):
    """Enlarge a map r times by spreading channels over space, then classify (iiwa/PAPER 3.9.5).

    Args:
        scale: r, a divisor of D (published name head_scale).

    Shapes:
        (B, h, w, D) -> (B, K, r * h, r * w)
    """

    def __init__(self, channels: int, num_classes: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.expand = nn.Linear(channels, scale * channels, bias=False)  # r^2 pixels of D / r channels
        self.norm = nn.LayerNorm(channels // scale)
        self.classifier = nn.Linear(channels // scale, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        r = self.scale
        pixels = rearrange(self.expand(x), "b h w (r s c) -> b (h r) (w s) c", r=r, s=r)
        return rearrange(self.classifier(self.norm(pixels)), "b h w k -> b k h w")


class Decoder(nn.Module):
    """Query stem, stages against one shared memory, sub-pixel head.

    The stages' drop-path rates rise linearly from 0.

    Args:
        channels: of the neck's levels, fine to coarse, then of the last backbone level.

    Shapes (E and D: width of the query stem and of the stages):
        query stem (B, h, w, E), memory levels (B, C_i, h_i, w_i) -> logits (B, K, r * h, r * w)
    """

    def __init__(self, channels: Sequence[int], num_classes: int, options: IIWAModel) -> None:
        super().__init__()
        *memory_channels, query_channels = channels
        embed_dim, width, depth = options.embed_dim, options.query_dim, options.decoder_depth
        self.window = options.decoder_window
        self.query_embed = nn.Linear(query_channels, embed_dim)
        self.query_norm = nn.LayerNorm(embed_dim)
        self.auxiliary_classifier = nn.Linear(embed_dim, num_classes)
        self.query_proj = nn.Linear(embed_dim, width) if embed_dim != width else nn.Identity()
        self.memory_proj = nn.ModuleList(nn.Linear(channels, width) for channels in memory_channels)
        self.memory_norm = nn.ModuleList(nn.LayerNorm(width) for _ in memory_channels)
        rates = (options.decoder_drop_path * i / max(depth - 1, 1) for i in range(depth))
        self.stages = nn.ModuleList(DecoderStage(options, rate) for rate in rates)
        self.head = SubpixelHead(width, num_classes, options.head_scale)

    def embed(self, last: Tensor) -> Tensor:
        """Query stem: last backbone level (B, C4, h, w) -> (B, h, w, E)."""
        return self.query_norm(self.query_embed(last.permute(0, 2, 3, 1)))

    def auxiliary(self, embedded: Tensor) -> Tensor:
        """Logits of the query stem, for training: (B, h, w, E) -> (B, K, h, w)."""
        return self.auxiliary_classifier(embedded).permute(0, 3, 1, 2)

    def forward(self, embedded: Tensor, levels: Sequence[Tensor]) -> Tensor:
        query = self.query_proj(embedded)  # (B, h, w, D)
        parts = zip(levels, self.memory_proj, self.memory_norm, strict=True)
        maps = [norm(proj(level.permute(0, 2, 3, 1))) for level, proj, norm in parts]  # (B, h_i, w_i, D)
        memory = prepare_memory(maps, self.window)
        for stage in self.stages:
            query = stage(query, memory)
        return self.head(query)
