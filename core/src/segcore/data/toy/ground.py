"""The ground of a toy scene: roadway, sidewalks, curbs, lane marks, shadows and asphalt."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from segcore.data.toy.canvas import LANE, ROAD, Canvas, Color, shade
from segcore.data.toy.texture import ASPHALT_SCALE, asphalt_tile
from segcore.opencv import cv2

_DEPTHS = np.array([2, 3, 5, 8, 12, 18, 27, 40, 60, 90, 140], np.float64)
LANE_WIDTH = 3.3
"""Meters."""


class Street(NamedTuple):
    """Layout of the street, meters."""

    lanes: int
    half_width: float
    sidewalk: float
    crossing: float
    """Depth of a cross street of 9 m, 0 if there is none."""
    town: int
    """0 city, 1 town, 2 suburb: height of houses, distance from the road, number of trees."""
    yellow: bool
    """Center line is yellow."""

    @classmethod
    def random(cls, rng: np.random.Generator) -> Street:
        """Draw a street."""
        lanes = int(rng.integers(2, 5))
        half = lanes * LANE_WIDTH / 2 + float(rng.uniform(0, 1.5))
        crossing = float(rng.uniform(10, 22)) if rng.random() < 0.6 else 0.0
        return cls(lanes, half, float(rng.uniform(2.2, 4.5)), crossing, int(rng.integers(3)), bool(rng.random() < 0.3))

    @property
    def edge(self) -> float:
        """Distance of the building line from the center line."""
        return self.half_width + self.sidewalk


def _strip(canvas: Canvas, x0: float, x1: float, z0: float, z1: float) -> np.ndarray:
    """Outline in pixels of a ground strip along the road."""
    inner = (
        _DEPTHS[np.searchsorted(_DEPTHS, z0, "right") : np.searchsorted(_DEPTHS, z1)]
        if canvas.camera.curve
        else np.empty(0)
    )
    z = np.concatenate(([z0], inner, [z1]))
    points = np.zeros((2 * len(z), 3))
    points[: len(z), 0], points[len(z) :, 0] = x0, x1
    points[: len(z), 2], points[len(z) :, 2] = z, z[::-1]
    return canvas.camera.project(points)


def _rectangle(canvas: Canvas, x0: float, x1: float, z0: float, z1: float) -> np.ndarray:
    """Outline in pixels of a short ground rectangle (four corners, convex)."""
    return canvas.camera.project(np.array([(x0, 0, z0), (x0, 0, z1), (x1, 0, z1), (x1, 0, z0)], np.float64))


def draw_ground(canvas: Canvas, rng: np.random.Generator, street: Street, brightness: float, sun: float) -> None:
    """Draw everything that lies on the ground and label it ROAD (paved ground) or LANE."""
    top = max(int(np.ceil(canvas.camera.horizon + 0.5)), 0)
    gray = float(rng.uniform(78, 118))
    asphalt: Color = (gray * 1.02, gray, gray * 0.98)
    pavement: Color = tuple(float(v) for v in rng.uniform(125, 165) * np.array((0.93, 0.98, 1.02)))  # pyright: ignore[reportAssignmentType]
    canvas.image[top:] = pavement
    canvas.label[top:] = ROAD
    half = street.half_width
    _draw_slabs(canvas, street, shade(pavement, 0.82))
    canvas.fill_regions([_strip(canvas, -half, half, canvas.camera.near, 140)], asphalt, ROAD)
    if street.crossing:
        canvas.fill(_rectangle(canvas, -80, 80, street.crossing, street.crossing + 9), asphalt, ROAD)
    ranges = _open_ranges(street, canvas.camera.near, 120)
    curbs = [_strip(canvas, side - 0.14, side + 0.14, *z) for side in (-half, half) for z in ranges]
    canvas.fill_regions(curbs, shade(pavement, float(rng.uniform(1.1, 1.25))), ROAD)
    gutters = [_strip(canvas, side - 0.06, side + 0.06, *z) for side in (0.2 - half, half - 0.2) for z in ranges]
    canvas.fill_regions(gutters, shade(asphalt, 0.6), ROAD)
    middles = (np.arange(street.lanes) + 0.5 - street.lanes / 2) * LANE_WIDTH
    tracks = [
        _strip(canvas, x - 0.25, x + 0.25, canvas.camera.near, 90)
        for middle in middles
        for x in (middle - 0.8, middle + 0.8)
    ]
    canvas.fill_regions(tracks, shade(asphalt, 0.93), ROAD)
    _draw_marks(canvas, rng, street)
    _texture_ground(canvas, rng, street, top, brightness, sun)


def _open_ranges(street: Street, z0: float, z1: float) -> list[tuple[float, float]]:
    """Depth ranges outside the cross street."""
    if not street.crossing:
        return [(z0, z1)]
    return [(z0, street.crossing), (street.crossing + 9, z1)]


def _draw_slabs(canvas: Canvas, street: Street, color: Color) -> None:
    """Joints between the slabs of the sidewalks."""
    z = np.arange(2.0, 26.0, 1.2)
    points = np.zeros((2, len(z), 2, 3))
    points[..., 2] = z[:, None]
    for i, side in enumerate((-1, 1)):
        points[i, :, :, 0] = side * np.array((street.half_width, street.edge))
    across = canvas.camera.project(points.reshape(-1, 3)).reshape(-1, 2, 2)
    middle = (street.half_width + street.edge) / 2
    along = [canvas.camera.project(np.array([(side * middle, 0, d) for d in _DEPTHS])) for side in (-1, 1)]
    canvas.lines([*across, *along], color, None)


def _draw_marks(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    """Lane marks: center and edge lines, dashes between lanes, arrows, stop line and zebra crossing."""
    gray = float(rng.uniform(190, 235))
    white: Color = (gray, gray, gray)
    center: Color = (70.0, gray * 0.8, gray) if street.yellow else white
    width, half = float(rng.uniform(0.11, 0.17)), street.lanes * LANE_WIDTH / 2
    dash, start = float(rng.uniform(2.5, 5)), float(rng.uniform(-3, 0))
    ranges = _open_ranges(street, canvas.camera.near, 70)
    if street.crossing:
        ranges = [(canvas.camera.near, street.crossing - 6), (street.crossing + 12, 70)]
    for line in range(street.lanes + 1):
        x = -half + line * LANE_WIDTH
        is_center = 2 * line in (street.lanes, street.lanes + 1)
        if line in (0, street.lanes):
            marks = [_strip(canvas, x - width, x + width, *z) for z in ranges]
        elif is_center and street.lanes > 2:
            sides = (x - 0.18, x + 0.18)
            marks = [_strip(canvas, side - 0.8 * width, side + 0.8 * width, *z) for side in sides for z in ranges]
        else:
            marks = _dashes(canvas, x, width, ranges, np.arange(start, 70, 2.2 * dash), dash)
        canvas.fill_regions(marks, center if is_center else white, LANE)
    if street.crossing:
        z, bars = street.crossing - 4.5, np.arange(-street.half_width + 0.4, street.half_width - 0.5, 1.05)
        marks = [_rectangle(canvas, x, x + 0.55, z, z + 3.2) for x in bars]
        canvas.fill_regions([*marks, _rectangle(canvas, 0.2, half, z - 1.4, z - 0.9)], white, LANE)
    if rng.random() < 0.5:
        lane = float(rng.integers(street.lanes // 2, street.lanes))
        _draw_arrow(canvas, -half + (lane + 0.5) * LANE_WIDTH, float(rng.uniform(4, 9)), white)


def _dashes(
    canvas: Canvas, x: float, width: float, ranges: list[tuple[float, float]], begins: np.ndarray, length: float
) -> list[np.ndarray]:
    """Outlines of a broken line: dashes of a length from each of `begins`, cut to the depth ranges."""
    pieces = [(max(z, low), min(z + length, high)) for low, high in ranges for z in begins.tolist()]
    return [_rectangle(canvas, x - width, x + width, *piece) for piece in pieces if piece[1] > piece[0]]


def _draw_arrow(canvas: Canvas, x: float, z: float, color: Color) -> None:
    canvas.fill(_rectangle(canvas, x - 0.13, x + 0.13, z, z + 2.2), color, LANE)
    head = np.array([(x - 0.45, 0, z + 2.1), (x, 0, z + 3.6), (x + 0.45, 0, z + 2.1)])
    canvas.fill(canvas.camera.project(head), color, LANE)


def _shadows(canvas: Canvas, rng: np.random.Generator, street: Street, top: int, sun: float) -> np.ndarray:
    """Shadow strength (rows below the horizon, W) float32: houses on the sunny side shade a part of the street."""
    mask = np.zeros((canvas.height - top, canvas.width), np.float32)
    z, reach = -2.0, float(rng.uniform(-0.6, 1.3)) * street.half_width
    while z < 90:
        length = float(rng.uniform(9, 22))
        outline = _strip(
            canvas, sun * street.edge * 1.5, -sun * (reach - street.half_width), max(z, canvas.camera.near), z + length
        )
        cv2.fillPoly(mask, [(outline - (0, top)).astype(np.int32)], 1.0)
        z += length + float(rng.uniform(0, 5))
        reach += float(rng.uniform(-1.5, 1.5))
    return cv2.blur(mask, (3, 3))


def _texture_ground(
    canvas: Canvas, rng: np.random.Generator, street: Street, top: int, brightness: float, sun: float
) -> None:
    """Multiply the flat ground colors by asphalt, light and shadow, then fade them into the haze."""
    camera = canvas.camera
    corner = rng.uniform(0, 512, 2)
    if top >= canvas.height:
        return
    # A pixel (u, v) sees the ground at depth z = focal height / (v - horizon) and at x = (u - center) z / focal.
    to_ground = np.array(
        [
            [camera.height, 0, -camera.center * camera.height],
            [0, 0, camera.focal * camera.height],
            [0, 1, top - camera.horizon],
        ]
    )
    to_tile = np.array([[ASPHALT_SCALE, 0, corner[0]], [0, ASPHALT_SCALE, corner[1]], [0, 0, 1]])
    size = (canvas.width, canvas.height - top)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    tile = cv2.warpPerspective(asphalt_tile(), to_tile @ to_ground, size, flags=flags, borderMode=cv2.BORDER_WRAP)
    depth = camera.focal * camera.height / (np.arange(top, canvas.height) - camera.horizon)
    contrast = np.clip(camera.focal / depth / ASPHALT_SCALE * 1.6, 0, 1).astype(
        np.float32
    )  # fades where it would alias
    factor = (tile.astype(np.float32) / 128 - 1) * contrast[:, None] + 1
    if sun:
        factor *= 1.12 - 0.55 * _shadows(canvas, rng, street, top, sun)
    clear = np.exp(-depth / canvas.haze.distance).astype(np.float32)[:, None, None]
    ground = canvas.image[top:] * (factor[..., None] * (brightness * clear))
    ground += np.array(canvas.haze.color, np.float32) * (1 - clear)
    canvas.image[top:] = np.minimum(ground, 255, out=ground)
