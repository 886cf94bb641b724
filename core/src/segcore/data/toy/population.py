"""What stands and moves on a toy street: positions, sizes and colors of buildings, trees, cars, people and poles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from segcore.data.toy.building import Building, draw_building
from segcore.data.toy.canvas import Canvas, Color
from segcore.data.toy.car import CAR_SHAPES, Car
from segcore.data.toy.ground import LANE_WIDTH, Street
from segcore.data.toy.objects import Person, Pole, Tree, draw_tree

FAR = 110.0
"""Depth at which the street ends, meters."""

_WALLS: tuple[Color, ...] = (
    (150, 175, 200), (120, 150, 190), (170, 180, 185), (95, 115, 165), (80, 95, 140), (185, 200, 210), (140, 140, 140),
    (150, 165, 160), (110, 145, 175), (175, 165, 150), (130, 170, 205), (100, 100, 110),
)  # fmt: skip
_PAINTS: tuple[Color, ...] = (
    (215, 215, 215), (60, 58, 55), (35, 35, 165), (150, 80, 35), (165, 165, 165), (110, 108, 105), (70, 105, 40),
    (40, 140, 215), (190, 195, 200), (95, 45, 40), (30, 30, 120),
)  # fmt: skip
_CLOTHES: tuple[Color, ...] = (
    (40, 40, 45), (150, 60, 40), (50, 50, 180), (200, 200, 205), (60, 140, 60), (40, 160, 220), (130, 60, 130),
    (110, 90, 70), (60, 80, 110), (190, 150, 60), (90, 90, 200),
)  # fmt: skip
_LEAVES: tuple[Color, ...] = (
    (55, 125, 75), (45, 105, 60), (60, 140, 110), (50, 95, 80), (70, 130, 60), (45, 120, 165), (40, 85, 150),
)  # fmt: skip
_SKINS: tuple[Color, ...] = ((150, 180, 225), (110, 145, 195), (75, 100, 145), (50, 65, 95))
_HAIRS: tuple[Color, ...] = ((25, 28, 32), (40, 60, 90), (90, 150, 190), (150, 150, 150), (40, 50, 150))


def _pick(rng: np.random.Generator, colors: tuple[Color, ...], spread: float = 0.15) -> Color:
    """One of the colors, each channel varied."""
    color = colors[int(rng.integers(len(colors)))]
    b, g, r = (1 - spread + 2 * spread * rng.random(3)).tolist()
    return min(color[0] * b, 255.0), min(color[1] * g, 255.0), min(color[2] * r, 255.0)


def _row(
    rng: np.random.Generator, street: Street, side: float, light: tuple[float, float], lit: float
) -> Iterator[Building | Tree]:
    """Buildings of one side from near to far, with trees in the gaps."""
    front = (0.0, 0)  # distance from the road and floors of the building before, behind which a lower one hides
    floors = ((4, 10), (2, 6), (1, 4))[street.town]
    gap, setback = (0.12, 0.25, 0.6)[street.town], (0.3, 1.0, 4.0)[street.town]
    z = float(rng.uniform(-8, 0))
    while z < FAR:
        length = float(rng.uniform(8, 17)) * (1 + max(z, 0) / 20)
        end = z + length
        if street.crossing and z < street.crossing + 9 and end > street.crossing - 1:
            end = street.crossing - 1
        x = side * (street.edge + setback * float(rng.random()))
        height, has_roof = int(rng.integers(*floors)), rng.random() < (0.1, 0.5, 0.9)[street.town]
        wall = _pick(rng, _WALLS)
        glass: Color = tuple(float(v) for v in rng.uniform((75, 65, 50), (150, 125, 105)))  # pyright: ignore[reportAssignmentType]
        if end - z > 3:
            roof = float(rng.uniform(2, 4)) if has_roof else 0.0
            is_open = abs(x) < front[0] or height > front[1] or roof > 0
            yield Building(x, z, end, height, wall, glass, lit, roof, light, is_open)
            front = (abs(x), height)
        is_corner = bool(street.crossing) and z < street.crossing + 9 and end >= street.crossing - 1
        z = street.crossing + 10 if is_corner else end
        if is_corner:
            front = (0.0, 0)
        if rng.random() < gap:
            space = float(rng.uniform(3, 9))
            for _ in range(int(rng.integers(1, 3))):
                size = float(rng.uniform(3.5, 7))
                place = side * (street.edge + float(rng.uniform(2, 6)))
                yield Tree(
                    place, z + space * float(rng.random()), "round", 1.5, (size, size * 1.1), _pick(rng, _LEAVES[:5])
                )
            z += space
            front = (0.0, 0)


def building_rows(
    canvas: Canvas, rng: np.random.Generator, street: Street, brightness: float, sun: float, lit: float
) -> list[Callable[[], None]]:
    """Drawing calls for both sides of the street, from far to near. One side in six is a park."""
    calls: list[tuple[float, Callable[[], None]]] = []
    for side in (-1.0, 1.0):
        faced = 1.0 + 0.18 * (-side * sun)  # the wall on the left looks to the right
        light = (brightness * faced * 0.92, brightness * (0.88 if sun else 0.96))
        if rng.random() < 0.16:
            items: list[Building | Tree] = list(_park(rng, street, side))
        else:
            items = list(_row(rng, street, side, light, lit))
        for item in items:
            if isinstance(item, Building):
                calls.append((item.z0, partial(draw_building, canvas, rng, item)))
            elif item.z > 3:
                calls.append((item.z, partial(draw_tree, canvas, rng, item, brightness)))
    return [call for _, call in sorted(calls, key=lambda entry: -entry[0])]


def _park(rng: np.random.Generator, street: Street, side: float) -> Iterator[Tree]:
    """A row of bushes with trees behind them."""
    color = _pick(rng, _LEAVES[:5])
    z = 4.0
    while z < FAR:
        kind = str(rng.choice(("round", "cone", "tall")))
        size = float(rng.uniform(5, 9))
        place = side * (street.edge + float(rng.uniform(3, 7)))
        yield Tree(
            place, z + 1.5, kind, 1.5, (size if kind == "round" else 0.6 * size, size * 1.2), _pick(rng, _LEAVES[:5])
        )
        yield Tree(
            side * (street.edge + 1.5), z, "bush", 0.0, (float(rng.uniform(4, 6)), float(rng.uniform(1.6, 2.6))), color
        )
        z += float(rng.uniform(2.5, 4)) * (1 + z / 15)


def bushes_and_trees(rng: np.random.Generator, street: Street) -> Iterator[Tree]:
    """Street trees in rows, and single bushes."""
    for side in (-1.0, 1.0):
        if rng.random() < (0.45, 0.5, 0.65)[street.town]:
            kind = str(rng.choice(("round", "round", "cone", "tall")))
            color, step = _pick(rng, _LEAVES), float(rng.uniform(8, 16))
            width, height = float(rng.uniform(2.5, 4.5)), float(rng.uniform(3, 5.5))
            for z in np.arange(float(rng.uniform(6, 14)), 60, step):
                grow = float(rng.uniform(0.8, 1.2))
                if not street.crossing or not street.crossing - 2 < z < street.crossing + 10:
                    crown = (width * grow * (0.7 if kind != "round" else 1.0), height * grow)
                    yield Tree(
                        side * (street.half_width + 1.1), float(z), kind, float(rng.uniform(1.9, 2.8)), crown, color
                    )
        for _ in range(int(rng.integers(0, 3))):
            size = float(rng.uniform(0.9, 2.0))
            place = side * (street.edge - 0.3 + float(rng.random()))
            yield Tree(place, float(rng.uniform(6, 30)), "bush", 0.0, (size * 1.5, size), _pick(rng, _LEAVES))


def _is_free(street: Street, z: float) -> bool:
    return not street.crossing or not street.crossing - 7 < z < street.crossing + 12


def cars(rng: np.random.Generator, street: Street, glow: bool) -> Iterator[Car]:
    """Parked cars at the curbs, traffic on the lanes and in the cross street."""
    half = street.half_width
    for side in (-1.0, 1.0):
        if rng.random() < 0.6:
            z = float(rng.uniform(6, 12))
            while z < 60:
                shape = int(rng.integers(4))
                if rng.random() < 0.7 and _is_free(street, z):
                    yaw = float(rng.normal(0, 0.03)) + (0.0 if side > 0 else np.pi)
                    yield Car(side * (half - 1.15), z, yaw, shape, _pick(rng, _PAINTS), False)
                z += CAR_SHAPES[shape].body[-1][0] + float(rng.uniform(0.8, 3))
    for _ in range(int(rng.integers(1, 4))):
        lane = int(rng.integers(street.lanes))
        x = (lane + 0.5) * LANE_WIDTH - street.lanes * LANE_WIDTH / 2 + float(rng.normal(0, 0.15))
        shape = 4 if rng.random() < 0.1 else int(rng.integers(4))
        z = float(rng.uniform(9, 45)) + (6 if shape == 4 else 0)
        yaw = float(rng.normal(0, 0.03)) + (0.0 if x > 0 else np.pi)
        if abs(x) < half - 2.4:
            yield Car(x, z, yaw, shape, _pick(rng, _PAINTS), glow)
    if street.crossing:
        for lane in (2.5, 6.3):
            if rng.random() < 0.45:
                yaw = np.pi / 2 if lane < 4 else -np.pi / 2
                x = float(rng.uniform(-12, 12))
                yield Car(x, street.crossing + lane, yaw, int(rng.integers(4)), _pick(rng, _PAINTS), glow)


def people(rng: np.random.Generator, street: Street) -> Iterator[Person]:
    """Pedestrians on the sidewalks, on the zebra crossing and, rarely, elsewhere on the road."""
    for _ in range(int(rng.integers(3, 10))):
        side = float(rng.choice((-1.0, 1.0)))
        x = side * (street.half_width + float(rng.uniform(0.5, street.sidewalk - 0.3)))
        yield _person(rng, x, 4.0 + 14.0 * float(rng.random()) ** 1.2)
    if street.crossing:
        for _ in range(int(rng.integers(0, 5))):
            x = float(rng.uniform(-1, 1)) * street.half_width
            yield _person(rng, x, street.crossing - 3 + float(rng.uniform(-1.2, 1.2)))
    if rng.random() < 0.35:
        yield _person(rng, float(rng.uniform(-1, 1)) * street.half_width, float(rng.uniform(5, 15)))


def _person(rng: np.random.Generator, x: float, z: float) -> Person:
    is_child = rng.random() < 0.12
    return Person(
        x=x,
        z=z,
        height=float(rng.uniform(1.05, 1.4) if is_child else rng.uniform(1.58, 1.92)),
        stride=float(rng.uniform(-1, 1)),
        facing=float(rng.choice((-1.0, 1.0))),
        skin=_pick(rng, _SKINS),
        hair=_pick(rng, _HAIRS),
        top=_pick(rng, _CLOTHES, 0.3),
        bottom=_pick(rng, _CLOTHES[:4] + _CLOTHES[7:9], 0.3),
        build=float(rng.uniform(0.95, 1.3)),
        has_skirt=bool(rng.random() < 0.2),
        has_bag=bool(rng.random() < 0.3),
    )


def poles(rng: np.random.Generator, street: Street, is_dark: bool) -> Iterator[Pole]:
    """Lamp posts along the street, signs, signals at the crossing and rows of bollards."""
    metals: tuple[Color, ...] = ((95, 95, 92), (140, 142, 142), (60, 70, 60), (70, 85, 110))
    metal = _pick(rng, metals)
    plates: tuple[Color, ...] = ((40, 40, 200), (190, 90, 30), (45, 190, 230), (45, 60, 200))
    step, start = float(rng.uniform(13, 20)), float(rng.uniform(4.5, 8))
    height, width = float(rng.uniform(5.5, 8.5)), float(rng.uniform(0.3, 0.46))
    both = rng.random() < 0.5
    for i, z in enumerate(np.arange(start, 45, step if both else step / 2)):
        for side in (-1.0, 1.0) if both else ((-1.0, 1.0)[i % 2],):
            yield Pole(side * (street.half_width + 0.45), float(z), "lamp", height, width, metal, metal, int(is_dark))
    for _ in range(int(rng.integers(1, 5))):
        x, z = float(rng.choice((-1.0, 1.0))) * (street.half_width + 0.5), float(rng.uniform(4, 16))
        width, height = float(rng.uniform(0.18, 0.26)), float(rng.uniform(2.4, 3.2))
        yield Pole(x, z, "sign", height, width, metal, _pick(rng, plates), 0)
    if street.crossing and rng.random() < 0.7:
        state = int(rng.integers(3))
        for side in (-1.0, 1.0):
            yield Pole(side * (street.half_width + 0.4), street.crossing - 5, "signal", 3.3, 0.28, metal, metal, state)
    if rng.random() < 0.3:
        side, color = float(rng.choice((-1.0, 1.0))), _pick(rng, metals)
        for z in np.arange(4.5, 16.0, 2.2):
            if _is_free(street, float(z)):
                yield Pole(side * (street.half_width + 0.35), float(z), "bollard", 1.0, 0.28, color, color, 0)
