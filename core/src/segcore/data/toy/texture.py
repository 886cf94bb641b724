"""Textures of the toy scenes: noise, asphalt, clouds, tree crowns and facades."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from segcore.data.toy.canvas import Color, shade
from segcore.opencv import cv2

_SEED = 20_240_508

CELL_SIZES = (4, 8, 16, 32)
"""Pixels per window cell at which facades are made; the nearest to what the image shows is used (no aliasing)."""

CROWN_SIZES = (24, 48, 96, 192)
"""Pixels of the stored tree crowns."""

ASPHALT_SCALE = 40.0
"""Pixels of the asphalt tile per meter."""


class Crown(NamedTuple):
    """One tree crown at every size of CROWN_SIZES.

    Shapes:
        tones, mask: one (size, size) uint8 each; tones 0 = deepest shadow, 255 = brightest leaf
    """

    tones: tuple[np.ndarray, ...]
    mask: tuple[np.ndarray, ...]


def _generator(*key: int) -> np.random.Generator:
    return np.random.default_rng([_SEED, *key])


def fractal_noise(rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int], octaves: int) -> np.ndarray:
    """Smooth noise (H, W) float32 in 0..1: octaves of random grids, each twice as fine and half as strong."""
    total = np.zeros(size, np.float32)
    for octave in range(octaves):
        grid = rng.random((cells[0] << octave, cells[1] << octave), np.float32)
        total += cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC) * 0.5**octave
    low, high = total.min(), total.max()
    return (total - low) / (high - low)


@cache
def grain(strength: int) -> np.ndarray:
    """Sensor noise (256, 256, 3) int8 with the standard deviation `strength` in gray levels, half of it colorless."""
    rng = _generator(1, strength)
    gray = rng.standard_normal((256, 256, 1), np.float32)
    color = rng.standard_normal((256, 256, 3), np.float32)
    return np.clip(np.rint((0.8 * gray + 0.6 * color) * strength), -127, 127).astype(np.int8)


@cache
def cloud_tile() -> np.ndarray:
    """Cloud density (256, 512) float32 in 0..1."""
    return fractal_noise(_generator(2), (256, 512), (4, 6), 5)


@cache
def asphalt_tile() -> np.ndarray:
    """Brightness (512, 512) uint8 of worn asphalt, 128 = mean: grains, patches, cracks and repairs."""
    rng = _generator(3)
    grains = cv2.GaussianBlur(rng.standard_normal((512, 512), np.float32), (0, 0), 0.8) * 14
    patches = (fractal_noise(rng, (512, 512), (5, 5), 4) - 0.5) * 50
    tile = 128 + grains + patches
    for _ in range(6):
        x, y, w, h = rng.integers((0, 0, 40, 40), (440, 440, 160, 100))
        tile[y : y + h, x : x + w] -= rng.uniform(8, 18)
    for _ in range(5):
        steps = rng.normal((1.5, 0.0), (3.0, 6.0), (40, 2)).cumsum(axis=0) + rng.uniform(0, 512, 2)
        cv2.polylines(tile, [steps.astype(np.int32)], False, float(rng.uniform(92, 112)), 2, cv2.LINE_8)
    return np.clip(tile, 0, 255).astype(np.uint8)


def _draw_crown(rng: np.random.Generator, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Draw tones and mask of one crown: leaf clusters from the shaded back to the lit front."""
    size = CROWN_SIZES[-1]
    tones, mask = np.zeros((size, size), np.uint8), np.zeros((size, size), np.uint8)
    count = 110
    angle, radius = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.random(count))
    y = radius * np.sin(angle)
    width = {"round": 1.0, "tall": 0.55, "cone": 1.0, "bush": 1.1}[kind] * np.ones(count)
    if kind == "cone":
        width = 0.12 + 0.44 * (y + 1)
    x = np.clip(radius * np.cos(angle) * width, -1, 1)
    order = np.argsort(rng.normal(0.0, 0.5, count) - y)  # mostly from the bottom up, the lit top in front
    for i in order:
        center = (round(size / 2 * (1 + 0.82 * float(x[i]))), round(size / 2 * (1 + 0.82 * float(y[i]))))
        extent = round(float(rng.uniform(0.05, 0.11)) * size)
        tone = np.clip(120 - 75 * y[i] - 25 * x[i] + rng.normal(0, 22), 15, 235)
        cv2.circle(tones, center, extent, float(tone), -1)
        cv2.circle(mask, center, extent, 255, -1)
    for _ in range(900):
        center = tuple(int(v) for v in rng.integers(0, size, 2))
        change = int(rng.integers(-45, 45))
        cv2.circle(
            tones, center, int(rng.integers(1, 4)), float(np.clip(int(tones[center[::-1]]) + change, 0, 255)), -1
        )
    for _ in range(260):  # gaps and single leaves make the outline ragged
        center = tuple(int(v) for v in rng.integers(0, size, 2))
        if cv2.getRectSubPix(mask, (13, 13), (float(center[0]), float(center[1]))).min() == 0:
            cv2.circle(mask, center, int(rng.integers(1, 4)), 0, -1)
    return tones, mask


@cache
def crowns(kind: str) -> tuple[Crown, ...]:
    """Five crowns of a kind: round, tall, cone or bush."""
    result = []
    for i in range(5):
        tones, mask = _draw_crown(_generator(4, ("round", "tall", "cone", "bush").index(kind), i), kind)
        by_size = [[cv2.resize(a, (s, s), interpolation=cv2.INTER_AREA) for s in CROWN_SIZES] for a in (tones, mask)]
        result.append(Crown(tuple(by_size[0]), tuple(by_size[1])))
    return tuple(result)


WALL, FRAME, GLASS, BAR, SHADE = range(5)  # what a pixel of a window cell shows
SHOP = -1  # the design of the cells at the street


@cache
def window_cells() -> tuple[np.ndarray, ...]:
    """Window designs, (32, 32) uint8 each, of WALL, FRAME, GLASS, BAR and SHADE pixels."""
    boxes = ((9, 7, 23, 25), (6, 6, 26, 24), (2, 8, 30, 23), (11, 5, 21, 27), (0, 6, 32, 24), (4, 4, 28, 30))
    cells = []
    for left, top, right, bottom in boxes:
        for bars in (False, True):
            cell = np.full((32, 32), WALL, np.uint8)
            cell[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = FRAME
            cell[top:bottom, left:right] = GLASS
            cell[bottom : bottom + 2, max(left - 2, 0) : right + 2] = SHADE
            if bars:
                cell[top:bottom, (left + right) // 2] = BAR
                cell[top + 5, left:right] = BAR
            cells.append(cell)
    return tuple(cells)


@cache
def _cell_shares(design: int, size: int) -> np.ndarray:
    """Share of WALL, FRAME, GLASS, BAR and SHADE in each pixel of a window design, (size * size, 5) float32."""
    cell = _make_shop() if design == SHOP else window_cells()[design]
    return cv2.resize(np.eye(5, dtype=np.float32)[cell], (size, size), interpolation=cv2.INTER_AREA).reshape(-1, 5)


def facade(
    rng: np.random.Generator,
    floors: int,
    columns: int,
    size: int,
    wall: Color,
    glass: Color,
    lit: float,
) -> np.ndarray:
    """A building front: window cells with a cornice above and shops at the street.

    Args:
        size: pixels of a cell, one of CELL_SIZES.
        wall, glass: colors under the scene's light.
        lit: share of windows with light behind.

    Shapes:
        result (floors * size, columns * size, 3) uint8 BGR
    """
    design = int(rng.integers(len(window_cells())))
    frame = shade(wall, float(rng.choice((0.7, 1.35))))
    panes = (glass, shade(glass, 1.5), shade(glass, 0.6), (110.0, 200.0, 245.0))
    awning: Color = tuple(float(v) for v in rng.uniform(30, 200, 3))  # pyright: ignore[reportAssignmentType]
    windows = np.array([[wall, frame, pane, frame, shade(wall, 0.75)] for pane in panes], np.float32)
    shops = np.array(
        [[shade(wall, 0.8), awning, pane, shade(wall, 0.5), shade(wall, 0.5)] for pane in panes], np.float32
    )
    cells = np.concatenate((_cell_shares(design, size) @ windows, _cell_shares(SHOP, size) @ shops))  # (8, size^2, 3)
    cells = np.minimum(cells, 255).astype(np.uint8).reshape(8, size, size, 3)
    glow = rng.random((floors, columns))
    kinds = np.where(glow < lit, 3, (glow * 97).astype(int) % 3)
    kinds[-1] += 4
    texture = cells[kinds].transpose(0, 2, 1, 3, 4).reshape(floors * size, columns * size, 3)
    texture[: max(size // 6, 1)] = np.minimum(shade(wall, 1.25), 255)
    texture[max(size // 6, 1) : max(size // 4, 2)] = np.minimum(shade(wall, 0.65), 255)
    return texture


def _make_shop() -> np.ndarray:
    cell = np.full((32, 32), WALL, np.uint8)
    cell[4:9] = FRAME  # the awning
    cell[10:28, 2:30] = GLASS
    cell[10:28, 15:17] = BAR
    cell[28:] = SHADE
    return cell
