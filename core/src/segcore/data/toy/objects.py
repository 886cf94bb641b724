"""Trees, people, poles and cables of the toy scenes, drawn as flat figures that face the camera.

Sizes and positions are meters. Colors are BGR before haze; `light` is the brightness that the scene's light gives.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from segcore.data.toy.canvas import PERSON, POLE, TREE, Canvas, Color, fixed_point, shade
from segcore.data.toy.texture import CROWN_SIZES, crowns
from segcore.opencv import cv2

_TONE_RAMP = (np.arange(256)[:, None] / 255) ** 1.2


class Tree(NamedTuple):
    """A tree or, with trunk 0, a bush."""

    x: float
    z: float
    kind: str
    trunk: float
    crown: tuple[float, float]
    """Width and height of the crown."""
    color: Color


def draw_tree(canvas: Canvas, rng: np.random.Generator, tree: Tree, light: float) -> None:
    """Draw the trunk and a crown of leaves."""
    column, row, per_meter = canvas.camera.ground(tree.x, tree.z)
    if tree.trunk > 0:
        half = max(0.022 * (tree.trunk + tree.crown[1]), 0.1) * per_meter
        bark = canvas.haze.mix(shade((48.0, 62.0, 80.0), light), tree.z)
        top = row - (tree.trunk + 0.3 * tree.crown[1]) * per_meter
        outline = ((column - half, row), (column - 0.6 * half, top), (column + 0.6 * half, top), (column + half, row))
        canvas.fill(np.array(outline), bark, TREE)
    bank = crowns(tree.kind)
    crown = bank[int(rng.integers(len(bank)))]
    width, height = tree.crown[0] * per_meter, tree.crown[1] * per_meter
    level = next((i for i, s in enumerate(CROWN_SIZES) if s >= 0.8 * max(width, height)), len(CROWN_SIZES) - 1)
    tones, mask = crown.tones[level], crown.mask[level]
    if rng.random() < 0.5:
        tones, mask = cv2.flip(tones, 1), cv2.flip(mask, 1)
    dark = np.array(canvas.haze.mix(shade(tree.color, 0.25 * light), tree.z))
    bright = np.array(canvas.haze.mix(shade(tree.color, 1.5 * light), tree.z))
    table = np.minimum(dark + _TONE_RAMP * (bright - dark), 255).astype(np.uint8)[:, None]  # (256, 1, 3)
    bottom = row - tree.trunk * per_meter
    box = (column - width / 2, bottom - height, column + width / 2, bottom)
    canvas.sprite(tones, mask, table, box, TREE)


class Person(NamedTuple):
    """A walking or standing person; stride is the angle between the legs in -1..1, facing -1 or 1."""

    x: float
    z: float
    height: float
    stride: float
    facing: float
    skin: Color
    hair: Color
    top: Color
    bottom: Color
    build: float
    """Factor on the width."""
    has_skirt: bool
    has_bag: bool


def _limb(x0: float, y0: float, x1: float, y1: float, w0: float, w1: float) -> np.ndarray:
    """Quadrangle around a line; w0, w1 are half widths across at its ends."""
    return np.array([(x0 - w0, y0), (x0 + w0, y0), (x1 + w1, y1), (x1 - w1, y1)])


_CIRCLE = np.array([(np.cos(a), np.sin(a)) for a in np.arange(12) * np.pi / 6])


_HAND = _CIRCLE[::2] * 0.022
_HEAD = _CIRCLE * (0.058, 0.072) + (0.0, 0.925)
_HAIR = np.concatenate((_CIRCLE[:7] * (0.065, 0.07) + (0.0, 0.935), [(-0.065, 0.91)]))


def draw_person(canvas: Canvas, person: Person, light: float) -> None:
    """Draw shadow, legs, shoes, body, arms, head and hair; y is a share of the height."""
    column, row, per_meter = canvas.camera.ground(person.x, person.z)
    step, arm = 0.13 * person.stride, 0.12 * person.stride
    trousers, top = person.bottom, person.top
    parts: list[tuple[np.ndarray, Color]] = [
        (_limb(0.01, 0.5, -step, 0.03, 0.06, 0.032), shade(trousers, 0.8)),
        (_limb(-step + 0.02, 0.045, -step + 0.02, 0.0, 0.035, 0.055), (35.0, 35.0, 40.0)),
        (_limb(0.03, 0.8, 0.05 + arm, 0.47, 0.035, 0.025), shade(top, 0.75)),
        (_limb(-0.01, 0.5, step, 0.03, 0.065, 0.035), trousers),
        (_limb(step + 0.02, 0.045, step + 0.02, 0.0, 0.035, 0.055), (35.0, 35.0, 40.0)),
    ]
    if person.has_skirt:
        parts.append((_limb(0.0, 0.55, 0.0, 0.28, 0.07, 0.13), trousers))
    if person.has_bag:
        parts.append((_limb(-0.1, 0.8, -0.11, 0.55, 0.055, 0.065), shade(trousers, 0.6)))
    parts += [
        (np.array([(-0.04, 0.85), (0.04, 0.85), (0.125, 0.81), (0.1, 0.48), (-0.1, 0.48), (-0.125, 0.81)]), top),
        (_limb(-0.1, 0.81, -0.11 - arm, 0.5, 0.035, 0.028), shade(top, 0.88)),
        (np.add(_HAND, (-0.11 - arm, 0.48)), person.skin),
        (_HEAD, person.skin),
        (_HAIR, person.hair),
    ]
    size = np.array([person.height * per_meter * person.facing * person.build, -person.height * per_meter])
    shadow = _CIRCLE * (0.35 * per_meter, 0.09 * per_meter) + (column, row)
    canvas.fill(shadow, canvas.haze.mix(shade((45.0, 43.0, 42.0), light), person.z), None)
    points = fixed_point(np.concatenate([polygon for polygon, _ in parts]) * size + (column, row))
    start = 0
    for polygon, color in parts:
        end = start + len(polygon)
        canvas.fill_fixed(points[start:end], canvas.haze.mix(shade(color, light), person.z), PERSON)
        start = end


class Pole(NamedTuple):
    """A lamp post, traffic sign, traffic light or bollard; what it carries belongs to it."""

    x: float
    z: float
    kind: str
    height: float
    width: float
    color: Color
    plate: Color
    state: int
    """Lamp: 1 where it burns. Signal: which of its lights does, from the top."""


def draw_pole(canvas: Canvas, pole: Pole, light: float) -> None:
    """Draw the post and what it carries; lamps reach over the road."""
    column, row, per_meter = canvas.camera.ground(pole.x, pole.z)
    inward = -float(np.sign(pole.x))
    half, top = pole.width / 2, pole.height

    def fill(polygon: np.ndarray, color: Color) -> None:
        canvas.fill(polygon * (per_meter, -per_meter) + (column, row), canvas.haze.mix(color, pole.z), POLE)

    metal = shade(pole.color, light)
    fill(_limb(0, 0, 0, top, half, half * 0.75), metal)
    if half * per_meter > 1.5:
        fill(_limb(-0.4 * half, 0, -0.4 * half, top, 0.3 * half, 0.25 * half), shade(metal, 1.25))
        fill(_limb(0, 0, 0, min(0.5, top), 1.4 * half, 1.3 * half), shade(metal, 0.85))
    if pole.kind == "lamp":
        reach = inward * 1.5
        fill(np.array([(0, top - 0.18), (0, top + 0.12), (reach, top + 0.34), (reach, top + 0.1)]), metal)
        fill(np.add(_LAMP_HEAD, (reach, top + 0.2)), (190.0, 235.0, 255.0) if pole.state else shade(metal, 1.1))
    elif pole.kind == "sign":
        outline = _CIRCLE if pole.plate[0] > 90 else _CIRCLE[[3, 7, 11]] if pole.plate[1] > 90 else _SQUARE
        fill(outline * 0.52 + (0, top - 0.35), shade(pole.plate, light))
        fill(outline * 0.36 + (0, top - 0.35), shade((235.0, 235.0, 235.0), light))
    elif pole.kind == "signal":
        fill(_limb(0, top + 0.05, 0, top - 1.15, 0.28, 0.28), shade((35.0, 38.0, 35.0), light))
        lamps: tuple[Color, ...] = ((50, 50, 240), (50, 190, 245), (90, 220, 60))
        for i, lamp in enumerate(lamps):
            is_on = i == pole.state
            fill(_CIRCLE * 0.15 + (0, top - 0.18 - 0.37 * i), lamp if is_on else shade(lamp, 0.3 * light))


_LAMP_HEAD = np.array([(-0.55, 0.14), (0.55, 0.14), (0.42, -0.2), (-0.42, -0.2)])
_SQUARE = np.array([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)])


def draw_wire(canvas: Canvas, start: np.ndarray, end: np.ndarray, sag: float, label: int) -> None:
    """Draw a hanging cable between two street points (3,); sag in meters."""
    share = np.linspace(0, 1, 12)[:, None]
    points = start + share * (end - start)
    points[:, 1] -= sag * 4 * (share * (1 - share))[:, 0]
    color = canvas.haze.mix((45.0, 42.0, 40.0), float(points[0, 2]))
    canvas.lines([canvas.camera.project(points)], color, label)
