"""The attention block that refines what was read from the memory and what the image's context gives.

Paper section 3.3 (https://arxiv.org/abs/2108.11819), memorynet/PAPER 3.3.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from memorynet.layers import Activation, conv_norm_act


class Attention(nn.Module):
    """One head of attention between two maps; nothing is added to the query.

    Args:
        channels: of the query map, the key map and the output.
        width: of queries, keys and values.
    Shapes:
        query (B, C, h, w), key map (B, C, h', w') -> (B, C, h, w)
    """

    def __init__(self, channels: int, width: int, activation: Activation) -> None:
        super().__init__()
        self.query = nn.Sequential(
            conv_norm_act(channels, width, 1, activation), conv_norm_act(width, width, 1, activation)
        )
        self.key = nn.Sequential(
            conv_norm_act(channels, width, 1, activation), conv_norm_act(width, width, 1, activation)
        )
        self.value = conv_norm_act(channels, width, 1, activation)
        self.out = conv_norm_act(width, channels, 1, activation)

    def forward(self, query: Tensor, key_map: Tensor) -> Tensor:
        return self._attend(query, self.key(key_map), self.value(key_map))

    def over_mixture(self, query: Tensor, weights: Tensor, rows: Tensor, updated: Tensor | None = None) -> Tensor:
        """Attend to the map Z = weights @ rows without building it.

        The first convolutions of key and value are linear, so the K rows are projected, then mixed: K instead of h * w
        products with the convolutions' matrices.

        Args:
            weights: of each row in every pixel; they sum to 1.
            rows: memory rows of one slot.
            updated: the rows after this step's update. The gradient of `weights` is then multiplied by them, although
                the value is that of `rows` (memorynet/PAPER P3); without them it is the plain one.

        Shapes:
            query (B, C, h, w), weights (B, K, h, w), rows (K, C) -> (B, C, h, w)
        """
        first = cast(ConvModule, self.key[0])
        table = self._projected(first, rows)  # (K, 2 width)
        if updated is None:
            mixed = _mix(weights, table)
        else:
            table_updated = self._projected(first, updated)
            mixed = _mix(weights, table_updated) + _mix(weights.detach(), table - table_updated)
        key, value = mixed.chunk(2, dim=1)  # (B, width, h, w) each
        second = cast(ConvModule, self.key[1])
        return self._attend(query, second(_norm_act(first, key)), _norm_act(self.value, value))

    def _projected(self, first: ConvModule, rows: Tensor) -> Tensor:
        """Return the rows behind the convolutions of key and value; their biases exist once norms are folded."""
        convs = (cast(nn.Conv2d, first.conv), cast(nn.Conv2d, self.value.conv))
        parts = [F.linear(rows, conv.weight.flatten(1), conv.bias) for conv in convs]
        return torch.cat(parts, dim=1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        height, width = query.shape[-2:]
        maps = (self.query(query), key, value)
        # contiguous: torch's kernels that never hold the (N, N) weights want the channels side by side
        q, k, v = (rearrange(x, "b c h w -> b 1 (h w) c").contiguous() for x in maps)
        context = F.scaled_dot_product_attention(q, k, v)  # scale width ** -0.5
        return self.out(rearrange(context, "b 1 (h w) c -> b c h w", h=height, w=width))


def _mix(weights: Tensor, table: Tensor) -> Tensor:
    """(B, K, h, w), (K, D) -> (B, D, h, w), as a 1x1 convolution: it keeps the memory format."""
    return F.conv2d(weights, table.t()[:, :, None, None])


def _norm_act(block: ConvModule, x: Tensor) -> Tensor:
    """Apply what follows the convolution in a block."""
    assert block.norm is not None
    return block.activate(block.norm(x))
