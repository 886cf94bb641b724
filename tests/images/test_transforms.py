"""Training transforms: sizes, crops, flips, distortions, padding (docs/protocol 2)."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segcore.images.photometric import Distortion, distort, draw_distortion
from segcore.images.region import Box
from segcore.images.target_maps import WholeMaps
from segcore.images.transforms import (
    MEAN,
    STD,
    TrainTransform,
    choose_box,
    flip_label,
    is_varied,
    multiple_size,
    normalize,
    padding,
    random_boxes,
    resize_bounds,
    resize_label,
    resized_size,
    rotate_label,
)
from segcore.recipe import Augment

SEED = 3


def picture(height: int, width: int, seed: int = SEED) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def patches(height: int, width: int, num_classes: int = 5, cell: int = 7, seed: int = SEED) -> np.ndarray:
    """Label of square cells, some of them ignored."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, num_classes + 1, (-(-height // cell), -(-width // cell)))
    values[values == num_classes] = 255
    return values.repeat(cell, 0).repeat(cell, 1)[:height, :width].astype(np.uint8)


def test_a_scale_is_truncated_per_component() -> None:
    assert resize_bounds((2048, 511), 0.7) == (357, 1433)


@pytest.mark.parametrize(
    ("image", "size"), [((512, 683), (512, 683)), ((683, 512), (683, 512)), ((300, 1500), (410, 2048))]
)
def test_the_nearer_bound_decides_the_size(image: tuple[int, int], size: tuple[int, int]) -> None:
    assert resized_size(image, (512, 2048)) == size
    assert resized_size(image, (2048, 512)) == size


def test_an_extreme_image_keeps_one_pixel() -> None:
    assert resized_size((1, 4000), (512, 512)) == (1, 512)


def test_without_keep_ratio_the_scale_is_width_and_height() -> None:
    assert resized_size((100, 40), (300, 520), keep_ratio=False) == (300, 520)


def test_family_s_turns_the_free_scale_for_portrait_images() -> None:
    assert resized_size((100, 40), (300, 520), keep_ratio=False, family="S") == (520, 300)
    assert resized_size((40, 100), (520, 300), keep_ratio=False, family="S") == (300, 520)


def test_sides_are_rounded_up_to_a_multiple() -> None:
    assert multiple_size((33, 64), 32) == (64, 64)


def test_normalizing_gives_rgb_planes_of_zero_mean_color() -> None:
    image = np.full((2, 3, 3), 100, np.uint8)
    image[..., 0] = 7  # blue
    planes = normalize(torch.from_numpy(padding((2, 3), (2, 3)).pad_image(image)))
    assert planes.shape == (3, 2, 3)
    assert planes.dtype == torch.float32
    np.testing.assert_allclose(planes[2], (7 - MEAN[2]) / STD[2], rtol=1e-6)
    np.testing.assert_allclose(planes[0], (100 - MEAN[0]) / STD[0], rtol=1e-6)


def test_a_crop_is_varied_below_the_largest_share_only() -> None:
    label = np.array([[0, 0, 0, 1, 255, 255, 255, 255]], np.uint8)
    assert not is_varied(label, 0.75)  # strictly below
    assert is_varied(label, 0.7501)
    assert not is_varied(np.zeros((4, 4), np.uint8), 1.1)
    assert not is_varied(np.full((4, 4), 255, np.uint8), 0.75)


@given(seed=st.integers(0, 10**6), height=st.integers(1, 40), width=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_a_box_lies_inside_the_image_and_has_the_crop_or_the_image_size(seed: int, height: int, width: int) -> None:
    box = next(random_boxes((height, width), (16, 24), np.random.default_rng(seed)))
    assert (box.height, box.width) == (min(16, height), min(24, width))
    assert 0 <= box.top <= height - box.height
    assert 0 <= box.left <= width - box.width


def test_every_place_of_a_box_is_drawn() -> None:
    boxes = random_boxes((6, 5), (4, 4), np.random.default_rng(SEED))
    assert {next(boxes)[:2] for _ in range(200)} == {(top, left) for top in range(3) for left in range(2)}


@pytest.mark.parametrize(("family", "drawn"), [("M", 11), ("S", 10)])
def test_the_last_box_is_used_unchecked(family: str, drawn: int) -> None:
    boxes = iter([Box(i, 0, 4, 4) for i in range(20)])
    label = np.zeros((30, 4), np.uint8)
    chosen = choose_box(boxes, lambda box: box.cut(label), 0.75, family)  # pyright: ignore[reportArgumentType]
    assert chosen == Box(drawn - 1, 0, 4, 4)


def test_family_s_leaves_a_sample_without_labels_uncropped() -> None:
    label = np.full((30, 4), 255, np.uint8)
    assert choose_box(iter([Box(i, 0, 4, 4) for i in range(20)]), lambda box: box.cut(label), 0.75, "S") is None


def test_a_share_of_one_takes_the_first_box_without_looking() -> None:
    def fail(box: Box) -> np.ndarray:
        raise AssertionError("looked at the label")

    assert choose_box(iter([Box(1, 2, 3, 4)]), fail, 1.0, "M") == Box(1, 2, 3, 4)


def test_flipping_twice_is_the_identity_with_pairs_too() -> None:
    label = patches(9, 14)
    pairs = ((0, 1), (2, 4))
    np.testing.assert_array_equal(flip_label(flip_label(label, pairs), pairs), label)
    assert flip_label(np.array([[0, 1, 2, 255]], np.uint8), pairs).tolist() == [[255, 4, 0, 1]]


def test_rotation_by_nothing_is_the_identity_and_ignores_the_corners_otherwise() -> None:
    label = patches(21, 34)
    np.testing.assert_array_equal(rotate_label(label, 0), label)
    assert rotate_label(label, 30)[0, 0] == 255


def reference_distortion(image: np.ndarray, draws: Distortion, family: str) -> np.ndarray:
    """The definition of docs/protocol 2.5, step by step in float32."""

    def convert(values: np.ndarray, factor: float, offset: float) -> np.ndarray:
        return np.clip(values.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)

    there, back = (cv2.COLOR_BGR2HSV, cv2.COLOR_HSV2BGR) if family == "M" else (cv2.COLOR_RGB2HSV, cv2.COLOR_HSV2RGB)
    if draws.brightness is not None:
        image = convert(image, 1, draws.brightness)
    if draws.contrast is not None and draws.contrast_first:
        image = convert(image, draws.contrast, 0)
    if draws.saturation is not None:
        hsv = cv2.cvtColor(image, there)
        hsv[..., 1] = convert(hsv[..., 1], draws.saturation, 0)
        image = cv2.cvtColor(hsv, back)
    if draws.hue is not None:
        hsv = cv2.cvtColor(image, there)
        hsv[..., 0] = (hsv[..., 0].astype(int) + draws.hue) % 180
        image = cv2.cvtColor(hsv, back)
    if draws.contrast is not None and not draws.contrast_first:
        image = convert(image, draws.contrast, 0)
    return image


@pytest.mark.parametrize("family", ["M", "S"])
def test_fast_distortion_is_bit_equal_to_its_definition(family: str) -> None:
    rng = np.random.default_rng(SEED)
    image = picture(24, 31)
    untouched = image.copy()
    for _ in range(60):
        draws = draw_distortion(rng)
        ours = distort(image, draws, family=family)  # pyright: ignore[reportArgumentType]
        np.testing.assert_array_equal(ours, reference_distortion(image, draws, family), err_msg=str(draws))
    np.testing.assert_array_equal(image, untouched)


def test_every_step_of_the_distortion_is_drawn_half_of_the_time() -> None:
    rng = np.random.default_rng(SEED)
    draws = [draw_distortion(rng) for _ in range(2000)]
    for name in ("brightness", "contrast", "saturation", "hue"):
        share = np.mean([getattr(draw, name) is not None for draw in draws])
        assert 0.45 < share < 0.55, name
    hues = {draw.hue for draw in draws} - {None}
    assert (min(hues), max(hues)) == (-18, 17)  # pyright: ignore[reportArgumentType]
    assert 0.45 < np.mean([draw.contrast_first for draw in draws]) < 0.55


def test_family_m_pads_right_and_bottom_family_s_around() -> None:
    label = np.zeros((2, 3), np.uint8)
    assert np.argwhere(padding(label.shape, (4, 6)).pad(label) == 0).max(0).tolist() == [1, 2]
    centered = np.argwhere(padding(label.shape, (5, 6), "S").pad(label) == 0)
    assert centered.min(0).tolist() == [1, 1]


def test_family_s_cuts_an_uncropped_sample_in_the_middle() -> None:
    label = np.arange(35, dtype=np.uint8).reshape(5, 7)
    cut = padding(label.shape, (2, 2), "S").pad(label)
    np.testing.assert_array_equal(cut, label[2:4, 3:5])  # offsets (2 - 5) // 2, (2 - 7) // 2


def test_family_s_exchanges_the_target_for_portrait_images() -> None:
    assert padding((9, 5), (6, 10), "S").size == (10, 6)
    assert padding((5, 9), (6, 10), "S").size == (6, 10)


@pytest.mark.parametrize("family", ["M", "S"])
@pytest.mark.parametrize("region_first", [True, False])
def test_a_sample_has_the_crop_size_whatever_the_image(family: str, region_first: bool) -> None:
    augment = Augment(family=family, scale=(80, 40), crop=(32, 32), region_first=region_first)  # pyright: ignore[reportArgumentType]
    transform = TrainTransform(augment)
    for seed, size in enumerate([(20, 30), (37, 29), (64, 200), (5, 90), (1, 1)]):
        sample = transform(picture(*size), patches(*size), np.random.default_rng(seed))
        assert sample.pixels.shape == (3, 32, 32)
        assert sample.label.shape == (32, 32)
        assert sample.pixels.dtype == sample.label.dtype == np.uint8
        assert sample.maps == {}


def test_the_same_generator_gives_the_same_sample() -> None:
    transform = TrainTransform(Augment(scale=(80, 40), crop=(32, 32), rotation=0.6))
    first, second = (transform(picture(50, 70), patches(50, 70), np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first.pixels, second.pixels)
    np.testing.assert_array_equal(first.label, second.label)


def test_flip_pairs_change_labels_but_not_maps() -> None:
    augment = Augment(scale=(16, 16), ratio=(1, 1), crop=(16, 16), flip=1.0, flip_pairs=((1, 2),), photometric=False)
    label = np.ones((16, 16), np.uint8)
    sample = TrainTransform(augment)(picture(16, 16), label, np.random.default_rng(0), WholeMaps({"angle": label}))
    assert np.unique(sample.label).tolist() == [2]
    assert np.unique(sample.maps["angle"]).tolist() == [1]


def test_flip_of_probability_one_mirrors_and_of_zero_does_not() -> None:
    image, label = picture(16, 16), patches(16, 16)
    samples = [
        TrainTransform(Augment(scale=(16, 16), ratio=(1, 1), crop=(16, 16), flip=flip, photometric=False))(
            image, label, np.random.default_rng(1)
        )
        for flip in (0.0, 1.0)
    ]
    np.testing.assert_array_equal(samples[0].pixels, image[..., ::-1].transpose(2, 0, 1))
    np.testing.assert_array_equal(samples[0].pixels[..., ::-1], samples[1].pixels)
    np.testing.assert_array_equal(samples[0].label[..., ::-1], samples[1].label)


@given(
    height=st.integers(1, 60), width=st.integers(1, 60), new_height=st.integers(1, 120), new_width=st.integers(1, 120)
)
@settings(max_examples=80, deadline=None)
def test_nearest_takes_the_floor_of_the_source_position(
    height: int, width: int, new_height: int, new_width: int
) -> None:
    label = np.arange(height * width, dtype=np.uint16).reshape(height, width)
    rows = np.minimum(np.floor(np.arange(new_height) * (1 / (new_height / height))).astype(int), height - 1)
    columns = np.minimum(np.floor(np.arange(new_width) * (1 / (new_width / width))).astype(int), width - 1)
    np.testing.assert_array_equal(resize_label(label, (new_height, new_width)), label[rows][:, columns])
