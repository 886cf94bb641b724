"""Counts of every image: sums against the confusion matrix, boundaries and segments against slow definitions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from segcore.errors import InputError
from segcore.evaluation.image_counts import (
    ImageCounter,
    ImageCounts,
    boundary_reach,
    is_near_boundary,
    read_counts,
    segment_sizes,
    write_counts,
)
from segcore.evaluation.metrics import ConfusionMatrix
from segcore.evaluation.score_files import ScoredImages, ScoreFile
from segcore.recipe import Evaluate

CLASSES = 3
SCORE = ScoreFile(
    weights="best.safetensors",
    sha256="0",
    paper="tiny",
    recipe="toy",
    data=ScoredImages(dataset="toy", split="test", settings={}),
    images=2,
    protocol=Evaluate(),
    amp="off",
    time="",
    metric={},
)


def maps(seed: int, size: tuple[int, int] = (40, 56)) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a prediction and a label of blobs; of the label, some pixels are ignored and some of no class."""
    generator = np.random.default_rng(seed)

    def blobs() -> np.ndarray:
        noise = generator.normal(size=(*size, CLASSES))
        return cv2.GaussianBlur(noise, (0, 0), 4).argmax(axis=-1).astype(np.uint8)

    prediction, label = blobs(), blobs()
    label[:5, :9] = 255
    label[-4:, -6:] = 7
    return torch.from_numpy(prediction), torch.from_numpy(label)


def counted(images: list[tuple[torch.Tensor, torch.Tensor]], outside: str) -> ImageCounter:
    counter = ImageCounter(len(images), CLASSES, torch.device("cpu"), outside)
    for index, (prediction, label) in enumerate(images):
        counter.add(index, prediction, label, torch.from_numpy(segment_sizes(label.numpy())))
    return counter


@pytest.mark.parametrize("outside", ["predicted", "ignored"])
def test_the_images_counts_sum_to_the_confusion_matrix(outside: str) -> None:
    images = [maps(seed, (30 + seed, 40)) for seed in range(4)]
    matrix = ConfusionMatrix(CLASSES, outside=outside)  # pyright: ignore[reportArgumentType]
    for prediction, label in images:
        matrix.update(prediction, label)
    scores = matrix.scores()
    sums = counted(images, outside).classes.sum(dim=0).numpy()
    for row, name in enumerate(("intersection", "predicted", "labeled")):
        np.testing.assert_array_equal(sums[row], getattr(scores, name))


def test_boundaries_are_what_erosion_by_3x3_takes_of_each_class() -> None:
    """The published definition, class by class."""
    prediction, label = maps(0)
    reach, kernel = boundary_reach(*label.shape), np.ones((3, 3), np.uint8)

    def band(mask: np.ndarray) -> np.ndarray:
        padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        return mask & (cv2.erode(padded, kernel, iterations=reach)[1:-1, 1:-1] == 0)

    counter = counted([(prediction, label)], "predicted")
    is_labeled = label.numpy() != 255
    for number in range(CLASSES):
        truth, guess = band(label.numpy() == number), band(prediction.numpy() == number) & is_labeled
        expected = [(truth & guess).sum(), guess.sum(), truth.sum(), (truth & (prediction.numpy() == number)).sum()]
        assert counter.classes[0, 3:, number].tolist() == expected


def test_a_map_of_one_class_has_the_border_of_the_image_as_its_boundary() -> None:
    near = is_near_boundary(torch.zeros(9, 12, dtype=torch.uint8), 2)
    assert not near[2:-2, 2:-2].any()
    assert near.sum() == 9 * 12 - 5 * 8


def test_segments_are_told_apart_by_their_share_of_the_image() -> None:
    label = np.zeros((100, 100), np.uint8)
    label[10:12, 10:12] = 1  # 4 pixels of 10000
    label[30:35, 30:40] = 1  # 50
    label[60:80, 60:85] = 1  # 500
    label[0, :] = 255
    sizes = segment_sizes(label)
    assert (sizes[10, 10], sizes[30, 30], sizes[60, 60], sizes[50, 5]) == (0, 1, 2, 3)
    prediction = torch.from_numpy(np.where(label == 1, 0, label))  # nothing of class 1 is seen
    counter = counted([(prediction, torch.from_numpy(label))], "predicted")
    assert counter.segments[0].tolist() == [[0, 0, 0, 9346], [4, 50, 500, 9346]]


def test_counts_come_back_from_their_file_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    counter = counted([maps(0), maps(1)], "predicted")
    arrays = {"classes": counter.classes.numpy(), "segments": counter.segments.numpy()}
    matrix = np.arange(12, dtype=np.int64).reshape(CLASSES, CLASSES + 1)
    counts = ImageCounts(score=SCORE, images=("a", "b"), class_names=("x", "y", "z"), matrix=matrix, **arrays)
    path = tmp_path / "best.npz"
    write_counts(path, counts)
    found = read_counts(path)
    assert (found.score, found.images, found.class_names) == (SCORE, ("a", "b"), ("x", "y", "z"))
    for name in ("classes", "segments", "matrix"):
        np.testing.assert_array_equal(getattr(found, name), getattr(counts, name))
    np.testing.assert_array_equal(found.counts(of_boundary=True).labeled, counts.kind("boundary_labeled"))
    write_counts(path, replace(counts, images=("a",)))
    with pytest.raises(InputError, match="do not fit their 1 images"):
        read_counts(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"cannot read the counts .*best\.npz"):
        read_counts(path)
