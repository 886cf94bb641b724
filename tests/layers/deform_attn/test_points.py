"""Reference points and sampling locations of deformable attention."""

from __future__ import annotations

import pytest
import torch

from segcore.layers.deform_attn.points import reference_grid, sampling_locations

SIZES = ((2, 3), (4, 1))


def test_reference_points_are_pixel_centers_row_by_row() -> None:
    grid = reference_grid(SIZES)
    assert grid.shape == (1, 10, 1, 2)
    first = [((column + 0.5) / 3, (row + 0.5) / 2) for row in range(2) for column in range(3)]
    second = [(0.5, (row + 0.5) / 4) for row in range(4)]
    torch.testing.assert_close(grid[0, :, 0], torch.tensor(first + second))


def test_offsets_of_points_are_pixels_of_the_level() -> None:
    offsets = torch.zeros(2, 10, 1, 2, 1, 2)
    offsets[0, 4, 0, 0, 0] = torch.tensor([1.0, -1.0])
    offsets[0, 4, 0, 1, 0] = torch.tensor([1.0, -1.0])
    locations = sampling_locations(reference_grid(SIZES), offsets, SIZES)
    assert locations.shape == offsets.shape
    moves = locations[0, 4, 0, :, 0] - reference_grid(SIZES)[0, 4]
    torch.testing.assert_close(moves, torch.tensor([[1 / 3, -1 / 2], [1 / 1, -1 / 4]]))
    torch.testing.assert_close(locations[1, :, 0, 1, 0], reference_grid(SIZES)[0, :, 0])


def test_offsets_of_boxes_are_halves_of_the_box_over_all_points() -> None:
    box = torch.tensor([0.5, 0.25, 0.2, 0.4]).view(1, 1, 1, 4)
    offsets = torch.ones(1, 1, 1, 2, 4, 2)
    locations = sampling_locations(box, offsets, SIZES)
    expected = torch.tensor([0.5 + 0.2 / 8, 0.25 + 0.4 / 8]).expand(1, 1, 1, 2, 4, 2)
    torch.testing.assert_close(locations, expected)


def test_reference_points_may_differ_between_levels() -> None:
    points = torch.rand(1, 5, 2, 2, generator=torch.Generator().manual_seed(0))
    locations = sampling_locations(points, torch.zeros(3, 5, 4, 2, 1, 2), SIZES)
    torch.testing.assert_close(locations[2, :, 3, :, 0], points[0])


def test_locations_of_half_precision_offsets_are_float32() -> None:
    offsets = torch.zeros(1, 10, 1, 2, 1, 2, dtype=torch.bfloat16)
    assert sampling_locations(reference_grid(SIZES), offsets, SIZES).dtype == torch.float32


def test_a_reference_of_three_values_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must hold \(x, y\) or \(x, y, w, h\)"):
        sampling_locations(torch.zeros(1, 10, 1, 3), torch.zeros(1, 10, 1, 2, 1, 2), SIZES)
