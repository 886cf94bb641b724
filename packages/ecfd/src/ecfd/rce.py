"""Context tokens: the reinforced context embedding (RCE), the plain one of two variants, the learnt position grid.

ecfd/PAPER 3.2, 3.3 and 3.10.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecfd.tokens import Size, size_of
from segcore.layers.kept_by_size import KeptBySize
from segcore.segmentor import resize


class FoldedConv(nn.Module):
    """1x1 convolution (B, I, h, w) -> (B, O, h, w) by a given matrix: an embedding and its part of the fusion in one.

    Args:
        in_channels: I.
        channels: of the published embedding, which is not computed by itself.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.in_channels, self.channels = in_channels, channels

    def forward(self, x: Tensor, matrix: Tensor) -> Tensor:
        return F.conv2d(x, matrix[:, :, None, None])

    def published_macs(self, output: Tensor) -> int:
        """Return the cost of the published embedding alone, bias included; the fusion is counted in `RCE`."""
        return output.shape[-2] * output.shape[-1] * self.channels * (self.in_channels + 1)


class RCE(nn.Module):
    """Reinforced context embedding: levels 2, 3 and 4 embedded, resized to level 3, concatenated and fused.

    As published: a 1x1 convolution to `width` for each level, bilinear resize, 1x1 convolution of the concatenation.
    Resizing commutes with 1x1 convolutions, so the fusion is folded into the three embeddings, in every forward pass
    (the product of the two small matrices is differentiable): the same function, a third of the work.

    Args:
        in_channels: of levels 2, 3 and 4.
        width: channels of each embedding: those of level 1, whatever the head's (ecfd/PAPER 3.2); C in ECFDSpatial.
        out_channels: of the fused map.

    Shapes:
        three maps (B, I_i, h_i, w_i) -> (B, out_channels, h_3, w_3)
    """

    def __init__(self, in_channels: tuple[int, int, int], width: int, out_channels: int) -> None:
        super().__init__()
        second, third, fourth = in_channels
        # level 4's is a transposed convolution as published: its matrix lies the other way round, so its start differs
        last = nn.ConvTranspose2d(fourth, width, 1)
        self.embeddings = nn.ModuleList([nn.Conv2d(second, width, 1), nn.Conv2d(third, width, 1), last])
        self.fuse = nn.Conv2d(3 * width, out_channels, 1)
        self.folded = nn.ModuleList(FoldedConv(channels, width) for channels in in_channels)

    def matrices(self) -> tuple[list[Tensor], Tensor]:
        """Return the folded weights of the levels, (out_channels, I_i) each, and the bias (out_channels)."""
        assert self.fuse.bias is not None
        matrices, bias = [], self.fuse.bias
        for fuse, embedding in zip(self.fuse.weight[:, :, 0, 0].chunk(3, dim=1), self.embeddings, strict=True):
            assert isinstance(embedding, nn.Conv2d | nn.ConvTranspose2d)
            assert embedding.bias is not None
            weight = embedding.weight[:, :, 0, 0]
            matrices.append(fuse @ (weight.T if isinstance(embedding, nn.ConvTranspose2d) else weight))
            bias = bias + fuse @ embedding.bias
        return matrices, bias

    def forward(self, second: Tensor, third: Tensor, fourth: Tensor) -> Tensor:
        matrices, bias = self.matrices()
        levels, size = (second, third, fourth), size_of(third)
        parts = [
            resize(conv(level, matrix), size) for conv, level, matrix in zip(self.folded, levels, matrices, strict=True)
        ]
        return parts[0] + parts[1] + parts[2] + bias[:, None, None].to(parts[0].dtype)

    def published_macs(self, output: Tensor) -> int:
        """Return the cost of the published fusion, bias included."""
        return output.numel() * (self.fuse.in_channels + 1)


class PlainEmbedding(nn.Module):
    """Level 4 alone, projected and resized to level 3 (ECFDPatch4 and ECFDGeneral).

    Shapes:
        three maps, the last one (B, in_channels, h_4, w_4) -> (B, out_channels, h_3, w_3)
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, second: Tensor, third: Tensor, fourth: Tensor) -> Tensor:
        return resize(self.project(fourth), size_of(third))


class PositionGrid(KeptBySize):
    """Learnt position of every place: a grid as fine as level 1 of the training crop, resized to the tokens' map.

    Args:
        grid: height and width of the grid: a quarter of the training crop (`pretrain_img_size` / `patch_size`).
        channels: E.

    Shapes:
        height and width of a map -> (1, h * w, E)
    """

    def __init__(self, grid: Size, channels: int) -> None:
        super().__init__()
        self.grid = grid
        self.embedding = nn.Parameter(torch.zeros(1, 1 + grid[0] * grid[1], channels))  # row 0 is never used

    @property
    def source(self) -> Tensor:
        return self.embedding

    def compute(self, height: int, width: int) -> Tensor:
        """Resize the grid, bicubic without antialias."""
        maps = self.embedding[:, 1:].transpose(1, 2).unflatten(2, self.grid)  # (1, E, g_h, g_w)
        if (height, width) != self.grid:
            maps = F.interpolate(maps, size=(height, width), mode="bicubic", align_corners=False)
        return maps.flatten(2).transpose(1, 2)
