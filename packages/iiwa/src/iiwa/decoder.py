"""The decoder: a query map refined by self-IIWA and multi-scale cross-IIWA; iiwa/PAPER 3.9.

The attention blocks are the released ones; how they are put together (published class `GTR_DECODER3`) is a
reconstruction, and so are stem, auxiliary classifier and sub-pixel head.
"""

from __future__ import annotations

from collections.abc import Sequence

from einops import rearrange
from torch import Tensor, nn

from iiwa.attention import CrossIIWA, Memory, SelfIIWA, prepare_memory


class DecoderStage(nn.Module):
    """Self-IIWA of the query, then cross-IIWA with the memory.

    Shapes:
        query (B, H, W, D) -> (B, H, W, D)
    """

    def __init__(self, channels: int, window: tuple[int, int], heads: int, **rates: float) -> None:
        super().__init__()
        self.self_attn = SelfIIWA(channels, window, heads, **rates)
        self.cross_attn = CrossIIWA(channels, window, heads, **rates)

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

    Args:
        query_channels: channels of the last backbone level.
        memory_channels: channels of the neck's levels, fine to coarse.
        embed_dim: width of the query stem, which the auxiliary classifier reads.
        query_dim: D, width of the stages.
        depth: number of stages.
        drop_path: of the last stage; the others rise to it linearly from 0.

    Shapes:
        query stem (B, h, w, embed_dim), memory levels (B, C_i, h_i, w_i) -> logits (B, K, r * h, r * w)
    """

    def __init__(
        self,
        query_channels: int,
        memory_channels: Sequence[int],
        num_classes: int,
        *,
        embed_dim: int,
        query_dim: int,
        depth: int,
        heads: int,
        window: tuple[int, int],
        mlp_ratio: float = 4.0,
        attn_dropout: float = 0.0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        head_scale: int = 4,
    ) -> None:
        super().__init__()
        self.window = window
        self.query_embed = nn.Linear(query_channels, embed_dim)
        self.query_norm = nn.LayerNorm(embed_dim)
        self.auxiliary_classifier = nn.Linear(embed_dim, num_classes)
        self.query_proj = nn.Linear(embed_dim, query_dim) if embed_dim != query_dim else nn.Identity()
        self.memory_proj = nn.ModuleList(nn.Linear(channels, query_dim) for channels in memory_channels)
        self.memory_norm = nn.ModuleList(nn.LayerNorm(query_dim) for _ in memory_channels)
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        shared = {"mlp_ratio": mlp_ratio, "attn_dropout": attn_dropout, "dropout": dropout}
        self.stages = nn.ModuleList(DecoderStage(query_dim, window, heads, drop_path=rate, **shared) for rate in rates)
        self.head = SubpixelHead(query_dim, num_classes, head_scale)

    def embed(self, last: Tensor) -> Tensor:
        """Query stem: last backbone level (B, C4, h, w) -> (B, h, w, embed_dim)."""
        return self.query_norm(self.query_embed(last.permute(0, 2, 3, 1)))

    def auxiliary(self, embedded: Tensor) -> Tensor:
        """Logits of the query stem, for training: (B, h, w, embed_dim) -> (B, K, h, w)."""
        return self.auxiliary_classifier(embedded).permute(0, 3, 1, 2)

    def forward(self, embedded: Tensor, levels: Sequence[Tensor]) -> Tensor:
        query = self.query_proj(embedded)  # (B, h, w, D)
        memory = prepare_memory(self._memory_maps(levels), self.window)
        for stage in self.stages:
            query = stage(query, memory)
        return self.head(query)

    def _memory_maps(self, levels: Sequence[Tensor]) -> list[Tensor]:
        parts = zip(levels, self.memory_proj, self.memory_norm, strict=True)
        return [norm(proj(level.permute(0, 2, 3, 1))) for level, proj, norm in parts]
