"""Cars of the toy scenes: two convex prisms in perspective with panes, wheels and lamps. Sizes are meters."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from segcore.data.toy.canvas import CAR, Canvas, Color, fixed_point, shade


class CarShape(NamedTuple):
    """Two convex prisms: the body and the cabin, each a side profile of (length, height) points, rear = 0."""

    body: tuple[tuple[float, float], ...]
    cabin: tuple[tuple[float, float], ...]
    width: float
    wheels: tuple[float, float]


CAR_SHAPES = (
    CarShape(
        ((0, 0.3), (0, 0.85), (0.2, 0.95), (3.2, 0.95), (4.3, 0.72), (4.35, 0.3)),
        ((0.4, 0.93), (0.9, 1.42), (2.3, 1.45), (3.2, 0.93)),
        1.8,
        (0.85, 3.5),
    ),
    CarShape(
        ((0, 0.3), (0, 0.9), (0.1, 0.98), (2.7, 0.98), (3.7, 0.78), (3.8, 0.3)),
        ((0.05, 0.95), (0.4, 1.48), (1.9, 1.5), (2.75, 0.95)),
        1.7,
        (0.7, 3.05),
    ),
    CarShape(
        ((0, 0.38), (0, 1.0), (0.1, 1.1), (3.2, 1.1), (4.3, 0.95), (4.4, 0.38)),
        ((0.1, 1.08), (0.35, 1.72), (2.6, 1.75), (3.3, 1.08)),
        1.9,
        (0.9, 3.5),
    ),
    CarShape(
        ((0, 0.35), (0, 1.15), (4.4, 1.15), (5.1, 0.95), (5.2, 0.35)),
        ((0.0, 1.1), (0.1, 2.15), (3.6, 2.15), (4.4, 1.1)),
        2.0,
        (0.9, 4.2),
    ),
    CarShape(
        ((0, 0.35), (0, 1.25), (9.9, 1.25), (10, 0.35)),
        ((0.0, 1.2), (0.05, 3.0), (9.8, 3.0), (9.95, 1.2)),
        2.5,
        (2.0, 8.0),
    ),
)


class Car(NamedTuple):
    """A car with its middle at (x, z); yaw 0 drives away from the camera, in radians."""

    x: float
    z: float
    yaw: float
    shape: int
    color: Color
    glow: bool
    """Lights are on."""


def _prism(profile: tuple[tuple[float, float], ...], half: float) -> np.ndarray:
    """Points (2n, 3) of a profile at -half and +half of the width, as (across, up, along)."""
    side = np.array([(0.0, y, s) for s, y in profile])
    return np.concatenate((np.subtract(side, (half, 0, 0)), np.add(side, (half, 0, 0))))


@cache
def _car_points(index: int) -> np.ndarray:
    """All points of a car shape (N, 3) as (across, up, along its middle): shadow 4, body, cabin, wheels, lamps."""
    shape = CAR_SHAPES[index]
    half, length = shape.width / 2, shape.body[-1][0]
    x, ends = half + 0.15, (-0.2, length + 0.2)
    shadow = np.array([(-x, 0, ends[0]), (x, 0, ends[0]), (x, 0, ends[1]), (-x, 0, ends[1])])
    parts = (shadow, _prism(shape.body, half), _prism(shape.cabin, half * 0.88), _car_details(shape, half))
    return np.concatenate(parts) - (0, 0, length / 2)


def draw_car(canvas: Canvas, car: Car, light: float) -> None:
    """Draw the contact shadow, the visible faces of body and cabin, then windows, wheels and lights."""
    shape, points = CAR_SHAPES[car.shape], _car_points(car.shape)
    cosine, sine = float(np.cos(car.yaw)), float(np.sin(car.yaw))
    turn = np.array([(cosine, 0, -sine), (0, 1, 0), (sine, 0, cosine)])
    street = points @ turn + (car.x, 0, car.z)
    if street[:, 2].min() < canvas.camera.near:
        return
    pixels = fixed_point(canvas.camera.project(street))
    canvas.fill_fixed(pixels[:4], canvas.haze.mix((28.0, 26.0, 25.0), car.z), None)
    middle = 4 + 2 * len(shape.body)
    end = middle + 2 * len(shape.cabin)
    seen = _draw_prism(canvas, pixels[4:middle], car, light, is_cabin=False)
    _draw_prism(canvas, pixels[middle:end], car, light, is_cabin=True)
    _draw_car_details(canvas, pixels[end:], car, light, seen)


@cache
def _faces(count: int) -> list[list[int]]:
    """Corner indices of a prism's faces, clockwise in the image when seen from outside."""
    strips = [[i, i + 1, count + i + 1, count + i] for i in range(count - 1)]
    return [*strips, list(range(count))[::-1], list(range(count, 2 * count))]


def _is_seen(polygon: np.ndarray) -> bool:
    """Whether a convex face is turned to the camera: its corners run clockwise in the image."""
    (x0, y0), (x1, y1), (x2, y2) = polygon[:3].tolist()
    return (x1 - x0) * (y2 - y0) > (y1 - y0) * (x2 - x0)


def _draw_prism(canvas: Canvas, pixels: np.ndarray, car: Car, light: float, *, is_cabin: bool) -> set[int]:
    """Draw the faces that look at the camera; a cabin gets panes. Returns which faces were drawn."""
    count = len(pixels) // 2
    seen: set[int] = set()
    for i, face in enumerate(_faces(count)):
        polygon = pixels[face]
        if not _is_seen(polygon):
            continue
        seen.add(i)
        is_top, is_side = 0 < i < count - 2, i >= count - 1
        factor = light * (1.12 if is_top else 0.75 if is_side else 0.9)
        canvas.fill_fixed(polygon, canvas.haze.mix(shade(car.color, factor), car.z), CAR)
        if is_cabin and i != 1:
            pane = (polygon * 4 + polygon.sum(axis=0) // len(polygon)) // 5
            glass = _SIDE_GLASS if is_side else _GLASS
            canvas.fill_fixed(pane, canvas.haze.mix(shade(glass, light), car.z), CAR)
    return seen


_DETAIL_DEPTH = 40.0
"""Depth in meters beyond which wheels and lamps are not drawn."""
_GLASS: Color = (72.0, 62.0, 52.0)
_SIDE_GLASS: Color = (52.0, 46.0, 42.0)
_OCTAGON = np.array([(np.cos(a), np.sin(a)) for a in np.arange(8) * np.pi / 4])


def _car_details(shape: CarShape, half: float) -> np.ndarray:
    """Points (N, 3): four wheels of 8 points, then 4-point lamps and plates of the rear and of the front."""
    wheels = [
        np.stack((np.full(8, x), 0.33 + 0.34 * _OCTAGON[:, 1], s + 0.34 * _OCTAGON[:, 0]), axis=1)
        for x in (-half, half)
        for s in shape.wheels
    ]
    lamps = []
    for along in (-0.02, shape.body[-1][0] + 0.02):
        for left, right, low, high in ((-0.95, -0.6, 0.6, 0.8), (0.6, 0.95, 0.6, 0.8), (-0.3, 0.3, 0.42, 0.56)):
            lamps.append(
                np.array([(x * half, y, along) for x, y in ((left, low), (left, high), (right, high), (right, low))])
            )
    return np.concatenate((*wheels, *lamps))


def _draw_car_details(canvas: Canvas, pixels: np.ndarray, car: Car, light: float, seen: set[int]) -> None:
    count = len(CAR_SHAPES[car.shape].body)
    if car.z > _DETAIL_DEPTH:
        return
    tire = canvas.haze.mix(shade((30.0, 30.0, 30.0), light), car.z)
    for i in range(4):
        if count - 1 + i // 2 in seen:
            canvas.fill_fixed(pixels[8 * i : 8 * i + 8], tire, CAR)
    rear = (40.0, 40.0, 255.0) if car.glow else shade((45.0, 40.0, 190.0), light)
    front = (225.0, 250.0, 255.0) if car.glow else shade((215.0, 220.0, 220.0), light)
    for first, face, lamp in ((32, 0, rear), (44, count - 2, front)):
        if face in seen:
            canvas.fill_fixed(pixels[first : first + 4], canvas.haze.mix(lamp, car.z), CAR)
            canvas.fill_fixed(pixels[first + 4 : first + 8], canvas.haze.mix(lamp, car.z), CAR)
            canvas.fill_fixed(
                pixels[first + 8 : first + 12], canvas.haze.mix(shade((210.0, 220.0, 220.0), light), car.z), CAR
            )
