"""Logits that stay at the head's resolution and are enlarged a few rows at a time.

A head at stride 8 gives 1/64 of the values that the published inference enlarges, averages and normalizes at full size,
several times per view. Every value here is computed as docs/protocol 3 says, but only for the rows at hand: a
full-size map of a view never exists, and what is at hand stays in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segcore.layers.kept_by_size import kept_by_size


@dataclass(frozen=True)
class RowTable:
    """Where the rows of a bilinear resize (align_corners False) come from.

    Attributes:
        first, last: (out,) int64: the two source rows, for the host.
        lower, upper: (out,) int64: the same, on the device.
        weight: (out,) float32: share of the `upper` row, on the device.
    """

    first: np.ndarray
    last: np.ndarray
    lower: Tensor
    upper: Tensor
    weight: Tensor

    def source(self, start: int, stop: int) -> tuple[int, int]:
        """Return the range of source rows that the new rows [start, stop) need."""
        return int(self.first[start]), int(self.last[stop - 1]) + 1

    def apply(self, rows: Tensor, first: int, start: int, stop: int) -> Tensor:
        """Return the new rows [start, stop), given the source rows from `first` on.

        Shapes:
            rows (..., n, W) -> (..., stop - start, W)
        """
        lower, upper = self.lower[start:stop] - first, self.upper[start:stop] - first
        return rows.index_select(-2, lower).lerp_(rows.index_select(-2, upper), self.weight[start:stop, None])


@kept_by_size
def row_table(size: int, new_size: int, device: torch.device) -> RowTable:
    """Return the table for `size` -> `new_size` rows, rounded in float32 as F.interpolate does."""
    step = np.float32(size) / np.float32(new_size)
    place = np.maximum(step * (np.arange(new_size, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
    first = np.minimum(place.astype(np.int64), size - 1)
    last = np.minimum(first + 1, size - 1)
    weight = np.minimum(place - first.astype(np.float32), 1)
    return RowTable(first, last, *(torch.from_numpy(part).to(device) for part in (first, last, weight)))


def resize_columns(rows: Tensor, width: int) -> Tensor:
    """Resize bilinearly along the last axis only: (B, K, n, w) -> (B, K, n, width)."""
    if rows.shape[-1] == width:
        return rows
    if rows.device.type != "cpu":  # the same bits; `linear` takes 50 times as long on CUDA (bench/RESULTS.md)
        return F.interpolate(rows, size=(rows.shape[-2], width), mode="bilinear", align_corners=False)
    lines = rows.flatten(0, 1)  # (B*K, n, w)
    return F.interpolate(lines, size=width, mode="linear", align_corners=False).unflatten(0, rows.shape[:2])


@dataclass(frozen=True)
class LogitMap:
    """Logits of one network input, from one window that is all of it or from a grid of overlapping windows.

    Each window's values are resized to `padded`, cut to `window` (top left), added where the window lies, and divided
    by the number of windows over the pixel; the map is then cut to `valid`.

    Attributes:
        values: per window, row by row of the grid: (B, K, h', w') at the head's resolution; logits, or what a protocol
            averages in their place, probabilities.
        tops, lefts: rows and columns where the windows of the grid start.
        window: height and width of every window.
        padded: size the windows had in the network; at least `window`.
        size: height and width of the whole map.
        valid: top-left part of it that is not padding.
        is_softmax: enlarged windows become probabilities before they are averaged.
    """

    values: Sequence[Tensor]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    window: tuple[int, int]
    padded: tuple[int, int]
    size: tuple[int, int]
    valid: tuple[int, int]
    is_softmax: bool = False

    @property
    def num_values(self) -> int:
        """Number of values held."""
        return sum(part.numel() for part in self.values)

    @property
    def is_single(self) -> bool:
        """Whether one window is the whole map."""
        return self.window == self.size

    @cached_property
    def _window_rows(self) -> RowTable:
        return row_table(self.values[0].shape[-2], self.padded[0], self.values[0].device)

    def _window_part(self, window: Tensor, start: int, stop: int) -> Tensor:
        """Return the rows [start, stop) of an enlarged window, (B, K, n, window width)."""
        if window.shape[-2] == self.padded[0]:
            rows = window[..., start:stop, :]
        else:
            first, last = self._window_rows.source(start, stop)
            rows = self._window_rows.apply(window[..., first:last, :], first, start, stop)
        rows = resize_columns(rows, self.padded[1])[..., : self.window[1]]
        return rows.softmax(dim=1) if self.is_softmax else rows

    def rows(self, start: int, stop: int) -> Tensor:
        """Return the rows [start, stop) of the map, (B, K, n, W); W is the valid width."""
        if self.is_single:
            return self._window_part(self.values[0], start, stop)[..., : self.valid[1]]
        shape = (*self.values[0].shape[:2], stop - start, self.size[1])
        total = self.values[0].new_zeros(shape)
        height, width = self.window
        for i, top in enumerate(self.tops):
            low, high = max(start, top), min(stop, top + height)
            if low >= high:
                continue
            for j, left in enumerate(self.lefts):
                part = self._window_part(self.values[i * len(self.lefts) + j], low - top, high - top)
                total[..., low - start : high - start, left : left + width] += part
        down = _coverage(self.tops, height, start, stop, total.device)
        across = _coverage(self.lefts, width, 0, self.size[1], total.device)
        return total.div_(down[:, None] * across)[..., : self.valid[1]]

    def full(self) -> Tensor:
        """Return the valid part of the map, (B, K, H, W)."""
        return self.rows(0, self.valid[0])

    def resized(self, table: RowTable, width: int, start: int, stop: int) -> Tensor:
        """Return the rows [start, stop) of the valid map resized to the height of `table` and to `width`.

        Shapes:
            (B, K, stop - start, width)
        """
        if len(table.first) == self.valid[0]:
            return resize_columns(self.rows(start, stop), width)
        first, last = table.source(start, stop)
        if self.is_single and not self.is_softmax and self.values[0].shape[-2] != self.padded[0]:
            # Rows and columns commute while all is linear: both vertical steps run on the head's few columns.
            rows = self._window_rows.apply(self.values[0], 0, first, last)
            rows = resize_columns(table.apply(rows, first, start, stop), self.padded[1])
            return resize_columns(rows[..., : self.valid[1]], width)
        return resize_columns(table.apply(self.rows(first, last), first, start, stop), width)


@kept_by_size
def _coverage(starts: tuple[int, ...], length: int, begin: int, end: int, device: torch.device) -> Tensor:
    """Return how many of the intervals [s, s + length) hold each of the places [begin, end)."""
    places = torch.arange(begin, end, device=device)
    first = torch.tensor(starts, device=device)[:, None]
    return ((places >= first) & (places < first + length)).sum(dim=0).float()
