"""The region-first path against resizing the whole image and cutting out the crop."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segcore.images.region import Box, LabelRegion, resize_region
from segcore.images.target_maps import WholeMaps
from segcore.images.transforms import TrainTransform
from segcore.recipe import Augment
from tests.images.test_transforms import patches, picture


def crisp(height: int, width: int, seed: int) -> np.ndarray:
    """Random black and white values: a shift of the grid by 1/100 pixel shows as more than one gray level."""
    return 255 * np.random.default_rng(seed).integers(0, 2, (height, width, 3), dtype=np.uint8)


def box_of(size: tuple[int, int], shares: tuple[float, float, float, float]) -> Box:
    height, width = 1 + int(shares[0] * (size[0] - 1)), 1 + int(shares[1] * (size[1] - 1))
    return Box(int(shares[2] * (size[0] - height)), int(shares[3] * (size[1] - width)), height, width)


_SHARE = st.floats(0, 1)
_SIDE = st.integers(1, 90)


@given(
    source=st.tuples(_SIDE, _SIDE),
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    shares=st.tuples(_SHARE, _SHARE, _SHARE, _SHARE),
    seed=st.integers(0, 99),
)
@example(source=(64, 11), size=(62, 11), shares=(0.1, 1.0, 1.0, 0.0), seed=0)  # OpenCV copies where sizes round alike
@example(source=(48, 97), size=(48, 98), shares=(0.5, 0.2, 0.3, 0.9), seed=0)
@settings(max_examples=300, deadline=None)
def test_a_resized_region_equals_the_cut_of_the_whole_within_one_gray_level(
    source: tuple[int, int], size: tuple[int, int], shares: tuple[float, float, float, float], seed: int
) -> None:
    image, box = crisp(*source, seed), box_of(size, shares)
    whole = box.cut(cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR))
    region = resize_region(image, size, box)
    assert region.shape == whole.shape
    assert np.abs(region.astype(int) - whole).max() <= 1


@given(
    source=st.tuples(_SIDE, _SIDE),
    ratio=st.floats(0.3, 3),
    shares=st.tuples(_SHARE, _SHARE, _SHARE, _SHARE),
)
@settings(max_examples=200, deadline=None)
def test_a_region_at_kept_aspect_ratio_equals_the_cut_within_one_gray_level(
    source: tuple[int, int], ratio: float, shares: tuple[float, float, float, float]
) -> None:
    size = (max(int(source[0] * ratio + 0.5), 1), max(int(source[1] * ratio + 0.5), 1))
    image, box = crisp(*source, 1), box_of(size, shares)
    whole = box.cut(cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR))
    assert np.abs(resize_region(image, size, box).astype(int) - whole).max() <= 1


@given(
    source=st.tuples(_SIDE, _SIDE),
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    shares=st.tuples(_SHARE, _SHARE, _SHARE, _SHARE),
)
@settings(max_examples=200, deadline=None)
def test_a_label_region_equals_the_cut_of_the_whole_exactly(
    source: tuple[int, int], size: tuple[int, int], shares: tuple[float, float, float, float]
) -> None:
    label, box = patches(*source, cell=2), box_of(size, shares)
    whole = box.cut(cv2.resize(label, (size[1], size[0]), interpolation=cv2.INTER_NEAREST))
    np.testing.assert_array_equal(LabelRegion(source, size).cut(label, box), whole)


def test_an_image_of_the_target_size_is_only_cut() -> None:
    image = picture(20, 30)
    box = Box(9, 14, 8, 12)
    np.testing.assert_array_equal(resize_region(image, (20, 30), box), box.cut(image))


@pytest.mark.parametrize(
    "augment",
    [
        Augment(scale=(96, 48), crop=(32, 32), photometric=False),
        Augment(scale=(96, 48), crop=(48, 24), photometric=False, cat_max_ratio=0.3),
        Augment(scale=(60, 60), crop=(40, 40), photometric=False, keep_ratio=False, ratio=(0.75, 1.25)),
        Augment(family="S", scale=(96, 48), crop=(24, 48), photometric=False, flip_pairs=((1, 2),)),
    ],
)
def test_both_paths_choose_the_same_crop_and_differ_by_one_gray_level_at_most(augment: Augment) -> None:
    region_first, plain = TrainTransform(augment), TrainTransform(replace(augment, region_first=False))
    for seed in range(40):
        height, width = np.random.default_rng(seed).integers(20, 110, 2).tolist()
        image, label = crisp(height, width, seed), patches(height, width, seed=seed)
        distance = WholeMaps({"distance": np.random.default_rng(seed).random((height, width), dtype=np.float32)})
        ours = region_first(image, label, np.random.default_rng(seed), distance)
        theirs = plain(image, label, np.random.default_rng(seed), distance)
        np.testing.assert_array_equal(ours.label, theirs.label, err_msg=str(seed))
        np.testing.assert_array_equal(ours.maps["distance"], theirs.maps["distance"], err_msg=str(seed))
        assert ours.box == theirs.box, seed
        assert cv2.absdiff(ours.pixels, theirs.pixels).max() <= 1, seed


def test_a_sample_without_labels_is_left_uncropped_by_both_paths_of_family_s() -> None:
    augment = Augment(family="S", scale=(96, 48), crop=(24, 24), photometric=False, flip=0)
    label = np.full((40, 60), 255, np.uint8)
    samples = [
        TrainTransform(replace(augment, region_first=first))(crisp(40, 60, 0), label, np.random.default_rng(2))
        for first in (True, False)
    ]
    assert cv2.absdiff(samples[0].pixels, samples[1].pixels).max() <= 1
