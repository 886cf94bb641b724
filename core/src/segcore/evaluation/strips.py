"""Sliding windows over a picture that is never whole in memory: rows come in, rows of values go out.

The windows, the batches in which they pass the network and the bands in which they are enlarged are those of
`inference.logit_map`, so that the values are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from segcore.evaluation.inference import Grid, View, band_height, forward_batch, grid_of, network_input, run_network
from segcore.evaluation.logit_map import LogitMap
from segcore.recipe import Evaluate


class RowSource(Protocol):
    """A picture of which rows can be had, from the top down.

    Attributes:
        size: height and width.
    """

    @property
    def size(self) -> tuple[int, int]: ...

    def read(self, count: int) -> np.ndarray:
        """Return the next rows (count, W, 3) uint8 BGR; each is asked for once."""
        ...


def native_protocol(protocol: Evaluate) -> Evaluate:
    """Return a protocol's windows over a picture at its own resolution, once and not mirrored."""
    return replace(protocol, mode="slide", ratios=(1.0,), flip=False, pad_divisor=0, resize_divisor=0)


class _Rows:
    """The rows of a source that windows still need."""

    def __init__(self, source: RowSource) -> None:
        self._source = source
        self._held = np.empty((0, source.size[1], 3), np.uint8)
        self._first = 0

    def part(self, top: int, height: int) -> np.ndarray:
        """Return the rows [top, top + height); earlier ones are forgotten."""
        missing = top + height - self._first - len(self._held)
        if missing > 0:
            self._held = np.concatenate([self._held[top - self._first :], self._source.read(missing)])
            self._first = top
        return self._held[top - self._first :][:height]


def _window_logits(model: nn.Module, source: RowSource, grid: Grid, protocol: Evaluate) -> Iterator[Tensor]:
    """Yield the logits (1, K, h', w') of every window, row by row of the grid."""
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    rows, (height, width) = _Rows(source), grid.window
    batch = forward_batch(len(grid.tops) * len(grid.lefts), 1, grid.padded, protocol, device)
    waiting: list[Tensor] = []

    def forward() -> Iterator[Tensor]:
        padding = (0, grid.padded[1] - width, 0, grid.padded[0] - height)
        windows = torch.cat(waiting)
        output = run_network(model, nn.functional.pad(windows, padding) if any(padding) else windows)
        yield from output.float().split(1)
        waiting.clear()

    for top in grid.tops:
        strip = rows.part(top, height)
        for left in grid.lefts:
            pixels = torch.from_numpy(np.ascontiguousarray(strip[:, left : left + width]))
            waiting.append(network_input(View(pixels, 1.0), protocol, device)[0])
            if len(waiting) == batch:
                yield from forward()
    if waiting:
        yield from forward()


@torch.inference_mode()
def slide_strips(model: nn.Module, source: RowSource, protocol: Evaluate) -> Iterator[tuple[slice, Tensor]]:
    """Yield the averaged values of a picture's windows, some rows at a time.

    Args:
        protocol: see `native_protocol`.

    Shapes:
        rows, (K, n, W): logits, or probabilities where family S averages those
    """
    grid, size = grid_of(model, source.size, protocol), source.size
    is_softmax = protocol.family == "S" and protocol.probabilities
    windows = _window_logits(model, source, grid, protocol)
    held: dict[int, list[Tensor]] = {}  # top -> its windows
    tops = iter(grid.tops)
    upcoming = next(tops, None)
    start = 0
    while start < size[0]:
        if upcoming is not None and (not held or upcoming <= start):
            held[upcoming] = [next(windows) for _ in grid.lefts]
            upcoming = next(tops, None)
            continue
        height = band_height(next(iter(held.values()))[0], size[1])
        stop = min(start + height, size[0])
        while upcoming is not None and upcoming < stop:
            held[upcoming] = [next(windows) for _ in grid.lefts]
            upcoming = next(tops, None)
        values = [window for row in held.values() for window in row]
        part = LogitMap(values, tuple(held), grid.lefts, grid.window, grid.padded, size, size, is_softmax)
        yield slice(start, stop), part.rows(start, stop)[0]
        start = stop
        held = {top: row for top, row in held.items() if top + grid.window[0] > start}
