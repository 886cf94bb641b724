"""Composition of a toy scene: light, street, what stands and moves on it, drawn from far to near."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from segcore.data.labels import IGNORE
from segcore.data.toy.canvas import BUILDING, TREE, Camera, Canvas, Color, Haze, shade
from segcore.data.toy.car import draw_car
from segcore.data.toy.ground import Street, draw_ground
from segcore.data.toy.objects import draw_person, draw_pole, draw_tree, draw_wire
from segcore.data.toy.population import FAR, building_rows, bushes_and_trees, cars, people, poles
from segcore.data.toy.texture import cloud_tile, fractal_noise, grain
from segcore.opencv import cv2


class Light(NamedTuple):
    """Weather and time of day."""

    sky: tuple[Color, Color]
    """Colors at the top of the image and at the horizon."""
    cloud: Color
    cover: float
    """Share of the sky under clouds, roughly."""
    haze: Haze
    brightness: float
    sun: float
    """-1: from the left, 1: from the right, 0: no direct sun."""
    lit: float
    """Share of lit windows; lamps burn above 0.3."""
    tint: Color
    """Final factor on B, G, R."""


def _light(rng: np.random.Generator) -> Light:
    kind = rng.choice(4, p=(0.42, 0.23, 0.2, 0.15))
    sun = float(rng.choice((-1.0, 1.0)))
    level = float(rng.uniform(0.88, 1.1))
    tint: Color = tuple(float(v) for v in rng.uniform(0.93, 1.07, 3))  # pyright: ignore[reportAssignmentType]
    cover = float(rng.uniform(0.15, 0.6))
    if kind == 0:  # clear day
        haze = Haze((222.0, 208.0, 196.0), float(rng.uniform(180, 500)))
        return Light(
            ((205.0, 140.0, 78.0), (232.0, 206.0, 180.0)), (245.0, 243.0, 240.0), cover, haze, level, sun, 0.02, tint
        )
    if kind == 1:  # overcast
        haze = Haze((206.0, 204.0, 202.0), float(rng.uniform(110, 250)))
        return Light(
            ((188.0, 182.0, 178.0), (214.0, 212.0, 210.0)),
            (160.0, 156.0, 154.0),
            0.8,
            haze,
            0.85 * level,
            0.0,
            0.08,
            tint,
        )
    if kind == 2:  # dusk
        haze = Haze((128.0, 132.0, 165.0), float(rng.uniform(90, 220)))
        return Light(
            ((125.0, 82.0, 66.0), (112.0, 150.0, 222.0)),
            (105.0, 96.0, 150.0),
            cover,
            haze,
            0.6 * level,
            0.0,
            0.45,
            tint,
        )
    haze = Haze((204.0, 203.0, 201.0), float(rng.uniform(28, 60)))  # fog
    return Light(
        ((206.0, 204.0, 202.0), (204.0, 203.0, 201.0)), (200.0, 199.0, 198.0), 0.5, haze, 0.9 * level, 0.0, 0.12, tint
    )


def _camera(rng: np.random.Generator, size: tuple[int, int], street: Street) -> Camera:
    height, width = size
    focal = float(rng.uniform(0.68, 0.98)) * min(height, 0.75 * width)
    horizon, above = height * float(rng.uniform(0.36, 0.5)), float(rng.uniform(1.35, 2.7))
    return Camera(
        focal=focal,
        center=width * float(rng.uniform(0.38, 0.62)),
        horizon=horizon,
        height=above,
        offset=float(rng.uniform(0.1, 0.75)) * (street.half_width - 1.2),
        curve=float(rng.choice((0.0, rng.normal(0, 0.0009)))),
        near=min(0.9 * focal * above / (height - horizon), 1.4),
    )


def _draw_sky(canvas: Canvas, rng: np.random.Generator, light: Light) -> None:
    """Vertical gradient with clouds that flatten toward the horizon; smooth, so made at a quarter of the size."""
    rows, columns = max(canvas.height // 4, 8), max(canvas.width // 4, 8)
    horizon = canvas.camera.horizon / canvas.height
    share = np.clip(np.linspace(0, 1, rows, dtype=np.float32) / horizon, 0, 1)[:, None, None]
    sky = np.array(light.sky[0], np.float32) * (1 - share) + np.array(light.sky[1], np.float32) * share
    tile = cloud_tile()
    top, left = int(rng.integers(0, 100)), int(rng.integers(0, 200))
    high, wide = int(rng.integers(80, 156)), int(rng.integers(160, 312))
    density = cv2.resize(tile[top : top + high, left : left + wide], (columns, rows), interpolation=cv2.INTER_LINEAR)
    alpha = np.clip((density - (1 - light.cover)) * 3.5, 0, 0.95)[..., None] * (1 - 0.7 * share)
    sky = sky * (1 - alpha) + np.array(light.cloud, np.float32) * alpha
    sky = cv2.resize(sky, (canvas.width, canvas.height), interpolation=cv2.INTER_LINEAR)
    canvas.image[:] = np.clip(sky, 0, 255)


def _draw_backdrop(canvas: Canvas, rng: np.random.Generator, light: Light) -> None:
    """Hills of trees and a skyline at the end of the street, pale with distance."""
    camera = canvas.camera
    base = camera.horizon + camera.focal * camera.height / FAR + 1
    columns = np.linspace(0, canvas.width, 65)
    hills = fractal_noise(rng, (1, 65), (1, 6), 3)[0] * camera.focal * float(rng.uniform(0.03, 0.12))
    green = canvas.haze.mix(shade((52.0, 88.0, 66.0), light.brightness), 130)
    outline = np.stack((columns, base - 0.03 * camera.focal - hills), axis=1)
    corners = np.array([(canvas.width, base), (0.0, base)])
    canvas.fill_regions([np.concatenate((outline, corners))], green, TREE)
    if rng.random() < 0.6:
        count = int(rng.integers(3, 9))
        left, high = rng.uniform(-0.05, 0.95, count), rng.uniform(0.06, 0.3, count)
        for start, top, gray in zip(left, high, rng.uniform(95, 165, count), strict=True):
            x0, x1 = start * canvas.width, start * canvas.width + camera.focal * 0.16
            block = np.array([(x0, base), (x0, base - top * camera.focal), (x1, base - top * camera.focal), (x1, base)])
            color = canvas.haze.mix(shade((gray, gray * 0.97, gray * 0.95), light.brightness), 150)
            canvas.fill(block, color, BUILDING)


def _draw_hood(canvas: Canvas, rng: np.random.Generator, light: Light) -> None:
    """The own car's hood at the lower border, which carries no label (as in Cityscapes)."""
    height, width = canvas.height, canvas.width
    rise, gray = float(rng.uniform(0.03, 0.08)) * height, float(rng.uniform(25, 90))
    angle = np.linspace(np.pi, 2 * np.pi, 24)
    outline = np.stack((width / 2 + 0.62 * width * np.cos(angle), height + 1 + rise * np.sin(angle)), axis=1)
    canvas.fill(outline, shade((gray, gray, gray * 1.02), light.brightness), IGNORE)
    outline[:, 1] += 0.35 * rise
    canvas.fill(outline, shade((gray * 1.4, gray * 1.35, gray * 1.3), light.brightness), IGNORE)


def _finish(canvas: Canvas, rng: np.random.Generator, light: Light) -> np.ndarray:
    """Lens blur, color cast and sensor noise."""
    image = cv2.GaussianBlur(canvas.image, (3, 3), float(rng.uniform(0.35, 0.6)))
    gamma = float(rng.uniform(0.9, 1.12))
    ramp = (np.arange(256, dtype=np.float64)[:, None] / 255) ** gamma * np.array(light.tint) * 255
    image = cv2.LUT(image, np.clip(ramp, 0, 255).astype(np.uint8)[None])
    noise = grain(int(rng.integers(2, 7)))
    top, left = rng.integers(0, 64, 2)
    repeat = (-(-(canvas.height + int(top)) // 256), -(-(canvas.width + int(left)) // 256), 1)
    if repeat != (1, 1, 1):
        noise = np.tile(noise, repeat)
    return cv2.add(image, noise[top : top + canvas.height, left : left + canvas.width], dtype=cv2.CV_8U)


def _draw_wires(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    """Overhead cables: too thin for a label, so ignored."""
    edge = street.half_width + 1.0
    height = float(rng.uniform(5.5, 7.0))
    for z in rng.uniform(7, 40, int(rng.integers(1, 4))):
        draw_wire(canvas, np.array([-edge, height, z]), np.array([edge, height, z]), 0.35, IGNORE)
    if rng.random() < 0.5:
        x = float(rng.uniform(-0.5, 0.5)) * street.half_width
        draw_wire(canvas, np.array([x, height - 0.4, 5.0]), np.array([x, height - 0.4, 80.0]), 0.0, IGNORE)


def draw_scene(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene.

    Every random number is drawn in an order that does not depend on the size, so one seed gives one scene at any size.

    Args:
        rng: source of everything random.
        size: height and width, pixels.

    Shapes:
        image (H, W, 3) uint8 BGR, label (H, W) uint8 with 255 = ignore
    """
    light = _light(rng)
    street = Street.random(rng)
    canvas = Canvas(size, _camera(rng, size, street), light.haze)
    _draw_sky(canvas, rng, light)
    _draw_backdrop(canvas, rng, light)
    draw_ground(canvas, rng, street, light.brightness, light.sun)
    for draw in building_rows(canvas, rng, street, light.brightness, light.sun, light.lit):
        draw()
    if rng.random() < 0.3:
        _draw_wires(canvas, rng, street)
    things: list[tuple[float, Callable[[], None]]] = []
    for tree in bushes_and_trees(rng, street):
        things.append((tree.z, partial(draw_tree, canvas, rng, tree, light.brightness)))
    things += [
        (pole.z, partial(draw_pole, canvas, pole, light.brightness)) for pole in poles(rng, street, light.lit > 0.3)
    ]
    things += [(car.z, partial(draw_car, canvas, car, light.brightness)) for car in cars(rng, street, light.lit > 0.1)]
    things += [(person.z, partial(draw_person, canvas, person, light.brightness)) for person in people(rng, street)]
    for _, draw in sorted(things, key=lambda thing: -thing[0]):
        draw()
    if rng.random() < 0.3:
        _draw_hood(canvas, rng, light)
    return _finish(canvas, rng, light), canvas.label
