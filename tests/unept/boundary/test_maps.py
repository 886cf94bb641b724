"""Distance and direction of boundaries, computed from labels (unept/PAPER 7.3 and 8)."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from segcore.images.region import Box
from segcore.images.target_maps import LabeledSample
from unept.boundary import maps as boundary
from unept.boundary.maps import BoundaryMaps, boundary_maps
from unept.boundary.source import ANGLE, DISTANCE, BoundarySource
from unept.refinement import direction_bins

LEFT, UP, RIGHT, DOWN = 0, 2, 4, 6
"""Direction bins."""


def regions(height: int, width: int, seed: int, num_classes: int = 6, scale: int = 23) -> np.ndarray:
    """Return a label of smooth regions with some void and specks."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((height // scale + 2, width // scale + 2), np.float32)
    label = (cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 0.999) * num_classes).astype(
        np.uint8
    )
    label[rng.random((height, width)) < 0.002] = 7
    label[: height // 5, : width // 4] = 255
    return label


def definition(label: np.ndarray) -> tuple[BoundaryMaps, np.ndarray]:
    """Return the maps as the specification words them, and where the gradient is more than rounding.

    SciPy's distances, the sum of 24 shifted products, float64.
    """
    height, width = label.shape
    depth, down, right = np.zeros((3, height, width))
    for number in np.unique(label):
        mask = label == number
        if number == 255 or mask.sum() < 100:
            continue
        distance = distance_transform_edt(mask)
        padded = np.pad(distance, 2)
        depth += distance
        for y in range(-2, 3):
            for x in range(-2, 3):
                if x or y:
                    part = mask * padded[2 + y : 2 + y + height, 2 + x : 2 + x + width] / (x * x + y * y)
                    down += y * part
                    right += x * part
    direction = ((np.degrees(np.arctan2(down, right)) + 180) / 2).astype(np.uint8)
    return BoundaryMaps(np.minimum(depth, 250).astype(np.uint8), direction), np.hypot(down, right) > 1e-3


def steps_apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the difference of two direction maps in steps of two degrees, at most half a turn."""
    turn = np.abs(one.astype(int) - other.astype(int)) % 180
    return np.minimum(turn, 180 - turn)


def bins(maps: BoundaryMaps) -> np.ndarray:
    return direction_bins(torch.from_numpy(maps.angle())).numpy()


@settings(max_examples=25, deadline=None)
@given(height=st.integers(10, 90), width=st.integers(10, 90), seed=st.integers(0, 100))
def test_maps_are_those_of_the_definition(height: int, width: int, seed: int) -> None:
    label = regions(height, width, seed)
    ours, (theirs, has_slope) = boundary_maps(label), definition(label)
    np.testing.assert_array_equal(ours.depth, theirs.depth)
    # an angle on a multiple of 2 degrees rounds to either step in float32 and float64
    assert steps_apart(ours.direction, theirs.direction)[has_slope].max(initial=0) <= 1


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 100),
    corner=st.tuples(st.integers(0, 149), st.integers(0, 199)),
    size=st.tuples(st.integers(1, 150), st.integers(1, 200)),
    smallest=st.sampled_from([0, 4096]),
)
def test_a_part_has_exactly_the_values_of_the_whole(
    seed: int, corner: tuple[int, int], size: tuple[int, int], smallest: int
) -> None:
    label = regions(150, 200, seed, scale=50)
    box = Box(*corner, min(size[0], 150 - corner[0]), min(size[1], 200 - corner[1]))
    whole = boundary_maps(label)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boundary, "_SMALL", smallest)
        part = boundary_maps(label, box)
    for ours, theirs in zip(part, whole, strict=True):
        np.testing.assert_array_equal(ours, box.cut(theirs))


def test_directions_point_away_from_the_border_and_the_image_ends_nowhere() -> None:
    label = np.zeros((40, 60), np.uint8)
    label[:, 30:] = 1
    maps = boundary_maps(label)
    assert maps.depth[20].tolist() == [*range(30, 0, -1), *range(1, 31)]
    assert set(bins(maps)[5:-5, 5:30].ravel()) == {LEFT}
    assert set(bins(maps)[5:-5, 30:-5].ravel()) == {RIGHT}
    turned = bins(boundary_maps(np.ascontiguousarray(label.T)))
    assert set(turned[5:30, 5:-5].ravel()) == {UP}
    assert set(turned[30:-5, 5:-5].ravel()) == {DOWN}


def test_void_and_classes_under_100_pixels_have_no_distance() -> None:
    label = np.zeros((40, 60), np.uint8)
    label[4:15, 4:13] = 1  # 99 pixels
    label[20:30, 4:14] = 2  # 100 pixels
    label[20:30, 40:50] = 255
    maps = boundary_maps(label)
    for value in (1, 255):
        assert maps.depth[label == value].max() == 0
        assert set(maps.direction[label == value]) == {90}
    assert maps.depth[label == 2].max() == 5
    assert maps.depth[label == 0].min() == 1


def test_a_class_counts_as_a_whole_wherever_its_pieces_lie() -> None:
    label = np.zeros((60, 60), np.uint8)
    label[:8, :8] = label[-8:, -8:] = 3  # 64 pixels each, 128 together
    assert boundary_maps(label).depth[label == 3].max() == 8  # the corner is not outside
    assert boundary_maps(label, Box(0, 0, 10, 10)).depth[0, 0] == 8


def test_an_image_of_one_class_is_measured_as_scipy_does() -> None:
    label = np.full((30, 41), 4, np.uint8)
    maps = boundary_maps(label)
    np.testing.assert_array_equal(maps.depth, definition(label)[0].depth)
    part = boundary_maps(label, Box(7, 11, 9, 20))
    np.testing.assert_array_equal(part.direction, maps.direction[7:16, 11:31])


def test_distances_end_at_250() -> None:
    label = np.zeros((20, 400), np.uint8)
    label[:, 0] = 255
    assert boundary_maps(label).depth[10, [100, 250, 399]].tolist() == [100, 250, 250]


def mirrored_angle(label: np.ndarray, mirror_angles: bool) -> np.ndarray:
    """Return the angles of a sample that the training transform mirrors."""
    source = BoundarySource(mirror_angles)(LabeledSample(label, "x"))
    planes = source.cut(Box(0, 0, *label.shape))
    np.testing.assert_array_equal(source.mirrored(DISTANCE, planes[DISTANCE]), planes[DISTANCE])
    return source.mirrored(ANGLE, cv2.flip(planes[ANGLE], 1))


def test_mirrored_angles_are_those_of_the_mirrored_label() -> None:
    label = regions(80, 100, 3)
    angle = mirrored_angle(label, mirror_angles=True)
    assert np.abs(angle).max() <= 180
    theirs, has_slope = definition(cv2.flip(label, 1))
    # one step because stored angles are rounded down, one for rounding in float32
    assert steps_apart((angle + 180) / 2, theirs.direction)[has_slope].max() <= 2
    assert steps_apart((mirrored_angle(label, False) + 180) / 2, theirs.direction)[has_slope].max() > 45


def test_published_angles_stay_where_the_image_is_mirrored_and_mirroring_exchanges_east_and_west() -> None:
    label = regions(80, 100, 3)
    published = mirrored_angle(label, mirror_angles=False)
    np.testing.assert_array_equal(published, cv2.flip(boundary_maps(label).angle(), 1))
    ours, theirs = (
        direction_bins(torch.from_numpy(angle)).numpy() for angle in (mirrored_angle(label, True), published)
    )
    np.testing.assert_array_equal(ours, np.array([4, 3, 2, 1, 0, 7, 6, 5])[theirs])


def test_angles_turn_with_a_rotated_image_and_padding_stays() -> None:
    label = np.zeros((60, 60), np.uint8)
    label[:, 30:] = 1
    source = BoundarySource()(LabeledSample(label, "x"))
    angle = source.cut(Box(0, 0, 60, 60))[ANGLE]
    turned = source.rotated(ANGLE, np.ascontiguousarray(np.rot90(angle)), 90)  # counter-clockwise
    expected = bins(boundary_maps(np.ascontiguousarray(np.rot90(label))))
    inner = (slice(5, -5), slice(5, -5))
    np.testing.assert_array_equal(direction_bins(torch.from_numpy(turned)).numpy()[inner], expected[inner])
    padding = np.full((2, 2), 255, np.float32)
    np.testing.assert_array_equal(source.rotated(ANGLE, padding, 20), padding)
    np.testing.assert_array_equal(source.rotated(DISTANCE, padding, 20), padding)
