"""Maps beside the label go through the training transform as the label does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from segcore.images.region import Box
from segcore.images.target_maps import WholeMaps
from segcore.images.transforms import TrainTransform
from segcore.recipe import Augment
from tests.images.test_transforms import patches, picture


def test_maps_follow_the_label() -> None:
    transform = TrainTransform(Augment(scale=(80, 40), crop=(32, 32), rotation=0.6))
    label = patches(50, 70)
    for seed in range(12):
        maps = WholeMaps({"distance": label.astype(np.float32)})
        sample = transform(picture(50, 70), label, np.random.default_rng(seed), maps)
        assert sample.maps["distance"].dtype == np.float32
        np.testing.assert_array_equal(sample.maps["distance"], sample.label)


class Compass(WholeMaps):
    """A map of directions that turn with the image, and the boxes that were asked for."""

    def __init__(self, degrees: np.ndarray) -> None:
        super().__init__({"angle": degrees})
        self.boxes: list[Box] = []

    def cut(self, box: Box) -> Mapping[str, np.ndarray]:
        self.boxes.append(box)
        return super().cut(box)

    def mirrored(self, name: str, values: np.ndarray) -> np.ndarray:
        return 180 - values

    def rotated(self, name: str, values: np.ndarray, degrees: float) -> np.ndarray:
        return np.where(values == 255, values, values - degrees)


def test_a_map_of_directions_may_turn_with_the_image() -> None:
    label = patches(16, 16) % 5
    kwargs = {"scale": (16, 16), "ratio": (1, 1), "crop": (16, 16), "photometric": False}
    transform = TrainTransform(Augment(flip=1.0, rotation=1.0, **kwargs))
    compass = Compass(np.full((16, 16), 30, np.float32))
    sample = transform(picture(16, 16), label, np.random.default_rng(0), compass)
    turned = sorted(set(np.unique(sample.maps["angle"])) - {255})
    assert len(turned) == 1
    assert 150 - 29 <= turned[0] <= 150 + 30
    np.testing.assert_array_equal(sample.maps["angle"] == 255, sample.label == 255)


@pytest.mark.parametrize("size", [(40, 60), (90, 33)])
def test_maps_are_asked_for_only_where_the_crop_keeps_them(size: tuple[int, int]) -> None:
    augment = Augment(scale=(120, 80), crop=(32, 32), rotation=0.3)
    label = patches(*size)
    degrees = np.random.default_rng(1).random(size, np.float32)
    sizes = []
    for seed in range(12):
        first, plain = Compass(degrees), Compass(degrees)
        ours = TrainTransform(augment)(picture(*size), label, np.random.default_rng(seed), first)
        whole = TrainTransform(replace(augment, region_first=False))
        theirs = whole(picture(*size), label, np.random.default_rng(seed), plain)
        np.testing.assert_array_equal(ours.maps["angle"], theirs.maps["angle"])
        assert plain.boxes == [Box(0, 0, *size)]
        sizes += [box.height * box.width for box in first.boxes]
    assert len(sizes) == 12
    assert np.mean(sizes) < 0.6 * size[0] * size[1]
