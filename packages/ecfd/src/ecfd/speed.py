"""Faster forms of ECFD's published steps: the same functions up to rounding, and the same tensor names.

Resizing commutes with 1x1 convolutions, because its weights do not depend on the channel. So what follows a resize is
computed before it, where the map is smaller: the fusion of RCE (`FoldedFusion`), the gate of CLGD (`Gate`) and, on the
CPU, 3x3 convolutions (`OnResized`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcore.layers.kept_by_size import kept_by_size
from segcore.segmentor import Size, resize, size_of

_LEAST_ENLARGEMENT = 3  # output pixels per input pixel from which it pays, measured on a CPU
_BLOCK = 32  # rows and columns of the output computed together: zeros outside the bands are left out, memory is warm


class _FoldedConv(nn.Module):
    """1x1 convolution by a given matrix, (B, I, h, w) -> (B, O, h, w): an embedding and its part of the fusion."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.in_channels, self.width = in_channels, width

    def forward(self, x: Tensor, matrix: Tensor) -> Tensor:
        return F.conv2d(x, matrix[:, :, None, None])

    def published_macs(self, output: Tensor) -> int:
        """Return the cost of the published embedding alone, bias included; `FoldedFusion` counts the fusion."""
        return output.shape[-2] * output.shape[-1] * self.width * (self.in_channels + 1)


class FoldedFusion(nn.Module):
    """Embed maps by 1x1 convolutions, resize them to one size, concatenate and fuse them by another: RCE's steps.

    The fusion is folded into the embeddings in every forward pass (the product of the two small matrices is
    differentiable): a third of the work. Has no parameters: both convolutions are given.

    Args:
        in_channels: of the maps.
        width: channels of each embedding.

    Shapes:
        maps (B, I_i, h_i, w_i), size (h, w) -> (B, out_channels of `fuse`, h, w)
    """

    def __init__(self, in_channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.width = width
        self.convs = nn.ModuleList(_FoldedConv(channels, width) for channels in in_channels)

    def forward(self, *maps: Tensor, embeddings: nn.ModuleList, fuse: nn.Conv2d, size: Size) -> Tensor:
        matrices, bias = _folded(embeddings, fuse)
        total = None
        for conv, x, matrix in zip(self.convs, maps, matrices, strict=True):
            part = resize(conv(x, matrix), size)
            total = part if total is None else total + part
        assert total is not None
        return total + bias[:, None, None].to(total.dtype)

    def published_macs(self, output: Tensor) -> int:
        """Return the cost of the published fusion, bias included."""
        return output.numel() * (len(self.convs) * self.width + 1)


def _folded(embeddings: nn.ModuleList, fuse: nn.Conv2d) -> tuple[list[Tensor], Tensor]:
    """Return the folded weights of the maps, (out_channels, I_i) each, and the bias (out_channels)."""
    assert fuse.bias is not None
    matrices, bias = [], fuse.bias
    for part, embedding in zip(fuse.weight[:, :, 0, 0].chunk(len(embeddings), dim=1), embeddings, strict=True):
        assert isinstance(embedding, nn.Conv2d | nn.ConvTranspose2d)
        assert embedding.bias is not None
        weight = embedding.weight[:, :, 0, 0]
        matrices.append(part @ (weight.T if isinstance(embedding, nn.ConvTranspose2d) else weight))
        bias = bias + part @ embedding.bias
    return matrices, bias


class Gate(nn.Module):
    """Sigmoid of a 1x1 convolution of the concatenation of the finest level and the resized context: (B, 1, h, w).

    The context's part of the convolution comes before its resize: one channel is resized instead of all.
    """

    def __init__(self, low_channels: int, high_channels: int) -> None:
        super().__init__()
        self.low_channels = low_channels
        self.conv = nn.Conv2d(low_channels + high_channels, 1, 1)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        weights = self.conv.weight.split([self.low_channels, high.shape[1]], dim=1)
        logits = F.conv2d(low, weights[0], self.conv.bias) + resize(F.conv2d(high, weights[1]), size_of(low))
        return logits.sigmoid()

    def published_macs(self, output: Tensor) -> int:
        """Return the cost of the convolution of the concatenation."""
        return output.numel() * (self.conv.in_channels + 1)


class OnResized(nn.Sequential):
    """Layers that begin with a 3x3 convolution, on the concatenation of several maps resized bilinearly to one size.

    On a CPU neither the enlarged maps nor their concatenation are made: see `conv_of_resized`.

    Args:
        layers: convolution, norm and activation.
        align_corners: how the maps are resized.

    Shapes:
        maps (B, C_i, h_i, w_i) in the order of the concatenation, size (H, W) -> (B, out_channels, H, W)
    """

    def __init__(self, layers: nn.Sequential, *, align_corners: bool = False) -> None:
        super().__init__(*layers)
        self.align_corners = align_corners

    def forward(self, *maps: Tensor, size: Size) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        conv, norm, act = self
        assert isinstance(conv, nn.Conv2d)
        total = conv_of_resized(maps, conv.weight, size, align_corners=self.align_corners)
        if conv.bias is not None:  # of a folded norm
            total = total + conv.bias[:, None, None]
        return act(norm(total))

    def published_macs(self, output: Tensor) -> int:
        """Return the cost of the convolution of the concatenated maps, of which this computes less."""
        conv = self[0]
        assert isinstance(conv, nn.Conv2d)
        return output.numel() * conv.in_channels * 9


def conv_of_resized(maps: Sequence[Tensor], weight: Tensor, size: Size, *, align_corners: bool) -> Tensor:
    """Return `conv2d(cat([interpolate(x, size, "bilinear") for x in maps], dim=1), weight, padding=1)`.

    A 3x3 convolution is a sum of nine 1x1 convolutions, shifted by a pixel each. So each map's nine products (its taps)
    are made at its own size; resize, shift and sum follow as products with two small banded matrices, rows first, then
    columns, which also add up the maps. A map enlarged twice per axis costs two thirds of the plain form, one enlarged
    eight times a tenth. On other devices than the CPU the plain form is taken: many small products start more slowly
    than one convolution runs there.

    Args:
        size: height and width of the output, pixels.
        align_corners: as of `interpolate`.

    Shapes:
        maps (B, I_i, h_i, w_i), weight (O, sum of I_i, 3, 3) -> (B, O, H, W)
    """
    weights = weight.split([x.shape[1] for x in maps], dim=1)
    pairs = list(zip(maps, weights, strict=True))
    early = [(x, part) for x, part in pairs if _pays(x, size)]
    late = [(resize(x, size, align_corners=align_corners), part) for x, part in pairs if not _pays(x, size)]
    total = _conv_before_resize(early, size, align_corners) if early else None
    if late:
        direct = F.conv2d(_cat([x for x, _ in late]), _cat([part for _, part in late]), padding=1)
        total = direct if total is None else direct + total
    assert total is not None
    return total


def _pays(x: Tensor, size: Size) -> bool:
    if torch.compiler.is_exporting():  # blocks are counted when it runs; the plain form takes any size
        return False
    height, width = size_of(x)
    is_enlarged = size[0] >= height and size[1] >= width
    return x.device.type == "cpu" and is_enlarged and size[0] * size[1] >= _LEAST_ENLARGEMENT * height * width


def _cat(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


def _conv_before_resize(pairs: Sequence[tuple[Tensor, Tensor]], size: Size, align_corners: bool) -> Tensor:
    """Return the sum over pairs of map (B, I, h, w) and weight (O, I, 3, 3): (B, O, H, W) in channels_last."""
    kernels = [_row_kernels(weight) for _, weight in pairs]
    matrices = [_matrices(size_of(x), size, align_corners, x.device, x.dtype) for x, _ in pairs]
    blocks = []
    for rows in _blocks(size[0]):
        enlarged = [
            _enlarge_rows(x, kernel, by_row, rows, size[0])
            for (x, _), kernel, (by_row, _) in zip(pairs, kernels, matrices, strict=True)
        ]
        columns = [_enlarge_columns(enlarged, [m for _, m in matrices], part, size[1]) for part in _blocks(size[1])]
        blocks.append(torch.cat(columns, dim=2))
    return torch.cat(blocks, dim=1).permute(0, 3, 1, 2)


def _blocks(length: int) -> list[slice]:
    return [slice(start, min(start + _BLOCK, length)) for start in range(0, length, _BLOCK)]


def _row_kernels(weight: Tensor) -> list[Tensor]:
    """Return for each row of the kernel the 1x1 convolution to its three columns' taps: (3 * O, I, 1, 1)."""
    return [weight[:, :, row].permute(2, 0, 1).flatten(0, 1)[:, :, None, None] for row in range(3)]


def _enlarge_rows(x: Tensor, kernels: Sequence[Tensor], matrix: Tensor, rows: slice, target: int) -> Tensor:
    """Return the taps of some output rows, summed over the kernel's rows: (B, n, w * 3, O).

    Args:
        matrix: (3, H, h), what each row of the kernel and of the map gives to each output row.
    """
    batch, _, height, width = x.shape
    band = _sources(rows, height, target)
    # The dilation means nothing to a 1x1 kernel, but lets torch choose oneDNN with a single thread, too: three times
    # as fast as its other form.
    taps = [F.conv2d(x[:, :, band], kernel, dilation=2).permute(0, 2, 3, 1) for kernel in kernels]
    # joined first: torch.compile may guess another layout of the taps than they have, and would take them for a view
    stacked = torch.cat(taps, dim=1).flatten(2)  # (B, 3 * n', w * 3 * O)
    summed = matrix[:, rows, band].transpose(0, 1).flatten(1) @ stacked
    return summed.view(batch, rows.stop - rows.start, width * 3, -1)


def _enlarge_columns(rows: Sequence[Tensor], matrices: Sequence[Tensor], columns: slice, target: int) -> Tensor:
    """Return some output columns of a block of rows, summed over the kernel's columns and over the maps: (B, n, m, O).

    Args:
        rows: of each map, (B, n, w * 3, O).
        matrices: of each map, (W, w * 3).
    """
    total = None
    for taps, matrix in zip(rows, matrices, strict=True):
        band = _sources(columns, taps.shape[2] // 3, target)
        band = slice(3 * band.start, 3 * band.stop)
        part = matrix[columns, band] @ taps[:, :, band]
        total = part if total is None else total + part
    assert total is not None
    return total


def _sources(block: slice, length: int, target: int) -> slice:
    """Return which of `length` positions a block of `target` enlarged ones and its neighbors are interpolated from."""
    first, last = max(block.start - 1, 0), min(block.stop, target - 1)
    # whatever align_corners is: the two differ by less than a position
    return slice(max(first * length // target - 1, 0), min(last * length // target + 2, length - 1) + 1)


def _matrices(
    size: Size, target: Size, align_corners: bool, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the row matrix (3, H, h) and the column matrix (W, w * 3)."""
    by_row = _matrix(size[0], target[0], align_corners, device, dtype)
    by_column = _matrix(size[1], target[1], align_corners, device, dtype)
    return by_row, by_column.permute(1, 2, 0).flatten(1)


@kept_by_size
def _matrix(length: int, target: int, align_corners: bool, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return (3, target, length): what each tap at each position gives to each enlarged position, zeros outside."""
    identity = torch.eye(length, device=device, dtype=torch.promote_types(dtype, torch.float32))[None]
    weights = F.interpolate(identity, size=target, mode="linear", align_corners=align_corners)[0].T  # (target, length)
    padded = F.pad(weights, (0, 0, 1, 1))
    return torch.stack([padded[tap : tap + target] for tap in range(3)]).to(dtype)
