"""Buildings of the toy scenes: textured walls in perspective and pitched roofs. Sizes are meters."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from segcore.data.toy.canvas import BUILDING, Canvas, Color, shade
from segcore.data.toy.texture import CELL_SIZES, facade

FLOOR = 3.2
"""Height of a storey and width of a window column, meters."""


class Building(NamedTuple):
    """A block beside the road: its street wall lies at x, from z0 to z1; it extends away from the road."""

    x: float
    z0: float
    z1: float
    floors: int
    wall: Color
    glass: Color
    lit: float
    roof: float
    """Height of a pitched roof, 0 for a flat one."""
    light: tuple[float, float]
    """Brightness of the street wall and of the wall that faces the camera."""
    is_open: bool
    """The wall that faces the camera can be seen: nothing as high stands before it."""


def draw_building(canvas: Canvas, rng: np.random.Generator, building: Building) -> None:
    """Draw the wall along the street and, where it can be seen, the one that faces the camera."""
    side, height = float(np.sign(building.x)), building.floors * FLOOR
    z0, z1 = max(building.z0, canvas.camera.near), building.z1
    outer = building.x + side * 12.0
    walls = [((building.x, z1), (building.x, z0), building.light[0])]
    if building.z0 > canvas.camera.near and building.is_open:
        walls.insert(0, ((building.x, z0), (outer, z0), building.light[1]))
    if building.roof > 0:
        _draw_roof(canvas, building, z0, height)
    for start, end, light in walls:
        corners = np.array([(*start, height), (*end, height), (*end, 0.0), (*start, 0.0)])[:, [0, 2, 1]]
        if side < 0 and start[1] == end[1]:
            corners = corners[[1, 0, 3, 2]]
        pixels = canvas.camera.project(corners)
        depth = min(start[1], end[1]) * 0.65 + max(start[1], end[1]) * 0.35
        length = abs(end[0] - start[0]) + abs(end[1] - start[1])
        cell = canvas.camera.focal / depth * FLOOR
        size = next((s for s in CELL_SIZES if s >= 0.7 * cell), CELL_SIZES[-1])
        texture = facade(
            rng,
            building.floors,
            max(round(length / FLOOR), 1),
            size,
            canvas.haze.mix(shade(building.wall, light), depth),
            canvas.haze.mix(shade(building.glass, light), depth),
            building.lit,
        )
        canvas.wall(pixels, texture, BUILDING)


def _draw_roof(canvas: Canvas, building: Building, z0: float, height: float) -> None:
    """Draw the roof plane over the street wall and the gable over the wall that faces the camera."""
    side, top = float(np.sign(building.x)), height + building.roof
    eave, ridge, outer = building.x - side * 0.3, building.x + side * 6.0, building.x + side * 12.0
    points = np.array(
        [
            (eave, height, z0),
            (eave, height, building.z1),
            (ridge, top, building.z1),
            (ridge, top, z0),
            (outer, height, z0),
        ]
    )
    pixels = canvas.camera.project(points)
    gable = canvas.haze.mix(shade(building.wall, building.light[1]), z0)
    canvas.fill(pixels[[0, 3, 4]], gable, BUILDING)
    tiles: Color = (60.0, 70.0, 135.0) if building.floors % 2 else (90.0, 85.0, 85.0)
    canvas.fill(pixels[:4], canvas.haze.mix(shade(tiles, building.light[0]), (z0 + building.z1) / 2), BUILDING)
