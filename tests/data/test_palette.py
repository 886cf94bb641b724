"""Colors of one's own classes: the table is what its rule gives, and its colors can be told apart."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from segcore.data.palette import make_palette

TAKEN = ((0, 0, 0), (255, 255, 255), (190, 190, 190))
"""Ignored, unlabeled and right pixels of the pictures."""


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """Return CIELAB (D65) of sRGB values, (..., 3)."""
    value = rgb / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    matrix = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = linear @ np.transpose(matrix) / (0.95047, 1.0, 1.08883)
    x, y, z = np.moveaxis(np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def ciede2000(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the difference of colors in CIELAB (Sharma et al., The CIEDE2000 Color-Difference Formula, 2005)."""
    (l1, a1, b1), (l2, a2, b2) = np.moveaxis(first, -1, 0), np.moveaxis(second, -1, 0)
    chroma = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretch = 1 + 0.5 * (1 - np.sqrt(chroma**7 / (chroma**7 + 25.0**7)))
    c1, c2 = np.hypot(stretch * a1, b1), np.hypot(stretch * a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, stretch * a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    is_gray = c1 * c2 == 0
    turn = np.where(is_gray, 0, (h2 - h1 + 180) % 360 - 180)
    hue = np.where(is_gray, h1 + h2, (h1 + turn / 2) % 360)
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    weight = (
        1
        - 0.17 * np.cos(np.radians(hue - 30))
        + 0.24 * np.cos(np.radians(2 * hue))
        + 0.32 * np.cos(np.radians(3 * hue + 6))
        - 0.20 * np.cos(np.radians(4 * hue - 63))
    )
    lightness = (l2 - l1) / (1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2))
    colorfulness = (c2 - c1) / (1 + 0.045 * chroma)
    tone = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * chroma * weight)
    angle = np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2)))
    blue = -np.sin(angle) * 2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7))
    return np.sqrt(lightness**2 + colorfulness**2 + tone**2 + blue * colorfulness * tone)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, 2.5, 0.0), (50.0, 0.0, -2.5), 4.3065),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_the_distance_gives_the_published_examples(
    first: tuple[float, ...], second: tuple[float, ...], expected: float
) -> None:
    assert ciede2000(np.array(first), np.array(second)) == pytest.approx(expected, abs=5e-5)


def test_the_table_holds_the_farthest_color_of_the_grid_after_those_before_it() -> None:
    grid = np.array(list(product(range(0, 256, 17), repeat=3)))
    lab, colors = to_lab(grid), to_lab(make_palette(254))
    nearest = np.min([ciede2000(lab, color) for color in to_lab(np.array(TAKEN))], axis=0)
    for number, color in enumerate(colors):
        own = int((grid == make_palette(254)[number]).all(axis=1).argmax())
        assert nearest[own] == pytest.approx(nearest.max(), abs=1e-6), number
        nearest = np.minimum(nearest, ciede2000(lab, color))


@pytest.mark.parametrize(("count", "distance"), [(8, 29.0), (20, 21.0), (64, 13.0), (254, 7.0)])
def test_colors_of_own_classes_can_be_told_apart(count: int, distance: float) -> None:
    colors, taken = to_lab(make_palette(count)), to_lab(np.array(TAKEN))
    assert ciede2000(colors[:, None], taken[None]).min() > distance
    assert ciede2000(colors[:, None], colors[None])[~np.eye(count, dtype=bool)].min() > distance


def test_colors_repeat_where_there_are_more_classes_than_colors() -> None:
    palette = make_palette(260)
    assert palette.shape == (260, 3)
    np.testing.assert_array_equal(palette[254:], palette[:6])
