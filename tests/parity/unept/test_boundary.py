"""Boundary maps against those of the published generator and loader (unept/PAPER 8).

Cases are told by what the files hold: arrays NAME/label with NAME/depth are ground truth of a label, NAME/raw with
NAME/config follow a label through the training transform; a .mat file with `depth` holds one of the former.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.io import whosmat

from segcore.data.labels import reduce_zero_label
from segcore.images.target_maps import TargetMaps, WholeMaps
from segcore.images.transforms import TrainTransform, padding
from segcore.recipe import Augment
from tests.parity.case_files import find_files
from unept.boundary.files import read_offsets
from unept.boundary.maps import boundary_maps
from unept.boundary.source import ANGLE, DISTANCE, BoundaryTargets
from unept.refinement import BOUNDARY_DISTANCE, direction_bins

STEPS = 180  # of two degrees: a full turn


class Case(NamedTuple):
    """The arrays of one name in a file."""

    path: Path
    name: str

    def __getitem__(self, field: object) -> np.ndarray:
        with np.load(self.path) as arrays:
            return arrays[f"{self.name}/{field}"]

    def __str__(self) -> str:
        return f"{self.path.parent.name}-{self.path.stem}-{self.name}"


def cases(first: str, second: str) -> Iterator[Case]:
    """Yield the names in .npz files that have both fields."""
    for path in find_files("*.npz"):
        with np.load(path) as arrays:
            fields = set(arrays.files)
        names = sorted(field.removesuffix(f"/{first}") for field in fields if field.endswith(f"/{first}"))
        yield from (Case(path, name) for name in names if f"{name}/{second}" in fields)


LABELS = list(cases("label", "depth"))
TRANSFORMED = list(cases("raw", "config"))
MATLAB = [path for path in find_files("*.mat") if any(name == "depth" for name, *_ in whosmat(path))]


def train_ids(case: Case) -> np.ndarray:
    """Return the label by the id map of the case's data set."""
    return reduce_zero_label(case["label"]) if case.name.startswith("ade") else case["label"]


@pytest.mark.parametrize("case", LABELS, ids=str)
def test_maps_of_a_label_equal_the_generator(case: Case) -> None:
    maps = boundary_maps(train_ids(case))
    np.testing.assert_array_equal(maps.depth, case["depth"])
    np.testing.assert_array_equal(maps.depth <= BOUNDARY_DISTANCE, case["boundary"].astype(bool))
    turn = np.abs(maps.direction.astype(int) - case["dir_deg"].astype(int)) % STEPS
    assert np.minimum(turn, STEPS - turn).max() <= 1
    assert np.mean(maps.direction == case["dir_deg"]) > 0.999
    bins = direction_bins(torch.from_numpy(maps.angle())).numpy()
    assert np.mean(bins == case["direction"]) >= 0.999


@pytest.mark.parametrize("path", MATLAB, ids=lambda path: path.stem)
def test_a_published_file_is_read(path: Path) -> None:
    (size,) = (shape for name, shape, _ in whosmat(path) if name == "depth")
    distance, angle = read_offsets(path, size)
    assert distance.dtype == angle.dtype == np.float32
    beside = [case for case in LABELS if case.path.parent == path.parent and case["depth"].shape == size]
    assert any(
        np.array_equal(distance, case["depth"]) and np.array_equal(angle, case["dir_deg"] * 2.0 - 180)
        for case in beside
    )


class Scripted(np.random.Generator):
    """Draws what a case says: the size as given, its crop, its flip."""

    def __init__(self, corner: tuple[int, int], is_flipped: bool) -> None:
        super().__init__(np.random.PCG64(0))
        self.corner = list(corner)
        self.is_flipped = is_flipped

    def uniform(self, low: float, high: float) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        return 1.0

    def integers(self, high: int) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        place = self.corner.pop(0)
        assert place < high
        return place

    def random(self) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        return 0.0 if self.is_flipped else 0.9


@pytest.mark.parametrize("region_first", [True, False])
@pytest.mark.parametrize("is_stored", [True, False])
@pytest.mark.parametrize("case", TRANSFORMED, ids=str)
def test_maps_follow_the_label_through_resize_crop_flip_and_pad(
    case: Case, is_stored: bool, region_first: bool
) -> None:
    reduces, long, short, top, left, height, width, is_flipped, padded = case["config"].tolist()
    label = reduce_zero_label(case["raw"]) if reduces else case["raw"]
    stored = {DISTANCE: case["depth"].astype(np.float32), ANGLE: case["dir_deg"] * np.float32(2) - 180}
    maps: TargetMaps = BoundaryTargets(label, False, WholeMaps(stored) if is_stored else None)
    augment = Augment(
        scale=(long, short), crop=(height, width), cat_max_ratio=1.0, photometric=False, region_first=region_first
    )
    image = np.zeros((*label.shape, 3), np.uint8)
    sample = TrainTransform(augment)(image, label, Scripted((top, left), bool(is_flipped)), maps)
    around = padding(sample.label.shape, (padded, padded))
    for ours, name in ((sample.label, "seg"), (sample.maps[DISTANCE], "distance"), (sample.maps[ANGLE], "angle")):
        np.testing.assert_array_equal(around.pad(ours)[None], case[name], err_msg=name)
