"""The generated data set: what it promises about its pixels, labels, sizes and seeds."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from segcore.data.toy.dataset import CLASSES, SPLITS, ToyScenes
from segcore.errors import InputError

SIZE = (96, 128)


def _digest(scenes: ToyScenes, indices: tuple[int, ...]) -> str:
    digest = hashlib.sha256()
    for index in indices:
        sample = scenes[index]
        assert sample.label is not None
        digest.update(sample.image.tobytes())
        digest.update(sample.label.tobytes())
    return digest.hexdigest()


def _labels(scenes: ToyScenes) -> np.ndarray:
    return np.stack([scenes.load_label(index) for index in range(len(scenes))])


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 320), (320, 64), (192, 256), (256, 700)])
def test_a_scene_has_the_size_and_types_that_were_asked_for(size: tuple[int, int]) -> None:
    for sample in (ToyScenes("train", 4, size)[index] for index in range(4)):
        assert sample.image.shape == (*size, 3)
        assert sample.image.dtype == np.uint8
        assert sample.label is not None
        assert sample.label.shape == size
        assert sample.label.dtype == np.uint8
        assert set(np.unique(sample.label)) <= {*range(8), 255}


def test_a_scene_is_the_same_in_another_process() -> None:
    indices = (3, 0, 7)
    program = (
        "from segcore.data.toy.dataset import ToyScenes; from tests.data.test_toy import _digest;"
        f"print(_digest(ToyScenes('val', 8, {SIZE}), {indices}))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == _digest(ToyScenes("val", 8, SIZE), indices)


def test_a_scene_does_not_depend_on_the_others_drawn_before_or_on_their_number() -> None:
    few, many = ToyScenes("train", 6, SIZE), ToyScenes("train", 600, SIZE)
    expected = _digest(few, (5,))
    for index in (2, 4, 0):
        many.load(index)
    assert _digest(many, (5,)) == expected


def test_no_scene_is_in_two_splits_or_twice_in_one() -> None:
    digests = {_digest(ToyScenes(split, 20, (48, 64)), (index,)) for split in SPLITS for index in range(20)}
    assert len(digests) == 20 * len(SPLITS)


def test_names_are_unique_over_the_splits() -> None:
    assert len({ToyScenes(split, 9, (32, 32))[index].name for split in SPLITS for index in range(9)}) == 27


def test_every_class_and_ignored_pixels_appear_in_the_share_a_network_can_learn_from() -> None:
    counts = np.bincount(_labels(ToyScenes("train", 40, SIZE)).ravel(), minlength=256)
    share = counts / counts.sum()
    assert share[:8].min() > 0.005, dict(zip(CLASSES.names, share[:8], strict=True))
    assert share[:8].max() < 0.6
    assert 0.001 < share[255] < 0.05


def test_scenes_differ_from_each_other() -> None:
    images = [ToyScenes("train", 30, (48, 64))[index].image.astype(int) for index in range(30)]
    distances = [np.abs(a - b).mean() for i, a in enumerate(images) for b in images[:i]]
    assert min(distances) > 8  # gray levels


def test_a_larger_size_shows_the_same_scene() -> None:
    agreement = []
    for index in range(6):
        small = ToyScenes("val", 6, (96, 128)).load_label(index)
        large = ToyScenes("val", 6, (288, 384)).load_label(index)
        reduced = cv2.resize(large, (128, 96), interpolation=cv2.INTER_NEAREST)
        agreement.append(float((small == reduced).mean()))
    assert min(agreement) > 0.88  # what is left are borders and objects a few pixels wide


def test_labels_follow_the_image_sky_is_smoother_and_higher_than_road() -> None:
    for index in range(8):
        sample = ToyScenes("test", 8, (192, 256))[index]
        assert sample.label is not None
        rows = np.arange(192)[:, None] * np.ones_like(sample.label, dtype=int)
        assert rows[sample.label == 0].mean() + 30 < rows[sample.label == 1].mean()


def test_negative_indices_count_from_the_end_and_others_are_refused() -> None:
    scenes = ToyScenes("val", 5, (32, 32))
    assert scenes[-1].name == scenes[4].name
    for index in (5, -6):
        with pytest.raises(IndexError):
            scenes.load(index)


@pytest.mark.parametrize(
    ("split", "count", "size", "message"),
    [
        ("training", 5, SIZE, "train, val, test"),
        ("val", 0, SIZE, "--data.num-images"),
        ("val", 5, (31, 64), "--data.image-size"),
    ],
)
def test_wrong_arguments_are_explained(split: str, count: int, size: tuple[int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ToyScenes(split, count, size)
