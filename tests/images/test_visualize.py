"""Pictures and tables: colors land where they should."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from rich.console import Console

from segcore.data.base import ClassTable
from segcore.evaluation.metrics import ConfusionMatrix
from segcore.evaluation.score_table import score_table
from segcore.images.visualize import IGNORED_COLOR, RIGHT_COLOR, colorize, error_map, legend, overlay, with_legend

PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)  # RGB
CLASSES = ClassTable(("road", "sky", "tree"), PALETTE)


def test_the_palette_is_rgb_and_pictures_are_bgr() -> None:
    np.testing.assert_array_equal(colorize(np.array([[0, 2, 255]]), PALETTE), [[[0, 0, 255], [255, 0, 0], [0, 0, 0]]])


def test_an_overlay_truncates_and_leaves_unlabeled_pixels_alone() -> None:
    image = np.full((1, 2, 3), 101, np.uint8)
    result = overlay(image, np.array([[1, 255]], np.uint8), PALETTE, 0.5)
    np.testing.assert_array_equal(result, [[[50, 178, 50], [101, 101, 101]]])


@pytest.mark.parametrize(("opacity", "expected"), [(0.0, [9, 9, 9]), (1.0, [0, 0, 255])])
def test_the_ends_of_the_opacity_are_image_and_color(opacity: float, expected: list[int]) -> None:
    result = overlay(np.full((2, 2, 3), 9, np.uint8), np.zeros((2, 2), np.uint8), PALETTE, opacity)
    np.testing.assert_array_equal(result, np.broadcast_to(expected, (2, 2, 3)))


def test_an_impossible_opacity_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        overlay(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8), PALETTE, 1.5)


def test_an_error_map_shows_the_true_class_where_the_prediction_is_wrong() -> None:
    prediction, label = np.array([[0, 1, 2]], np.uint8), np.array([[0, 2, 255]], np.uint8)
    expected = [[list(RIGHT_COLOR), [255, 0, 0], list(IGNORED_COLOR)]]
    np.testing.assert_array_equal(error_map(prediction, label, PALETTE), expected)


def test_a_legend_shows_the_color_of_every_class_and_wraps_its_lines() -> None:
    wide, narrow = legend(CLASSES, width=600), legend(CLASSES, width=90)
    assert wide.shape[1] == 600
    assert narrow.shape[0] > wide.shape[0]
    for picture in (wide, narrow):
        for color in PALETTE:
            assert (picture == color[::-1]).all(axis=-1).any()
    only_sky = legend(CLASSES, present=[1], width=600)
    assert not (only_sky == PALETTE[0][::-1]).all(axis=-1).any()


def test_a_picture_gets_the_classes_that_occur_below_it() -> None:
    picture, label = np.zeros((4, 300, 3), np.uint8), np.full((4, 300), 2, np.uint8)
    label[0] = 255
    shown = with_legend(picture, label, CLASSES)
    np.testing.assert_array_equal(shown[:4], picture)
    np.testing.assert_array_equal(shown[4:], legend(CLASSES, present=[2], width=300))
    assert with_legend(picture, np.full_like(label, 255), CLASSES) is picture


def test_a_name_without_letters_in_the_font_is_drawn_as_its_number() -> None:
    table = ClassTable(("道路",), PALETTE[:1])
    np.testing.assert_array_equal(legend(table), legend(ClassTable(("class 0",), PALETTE[:1])))


def test_the_table_has_a_row_per_class_and_the_means() -> None:
    matrix = ConfusionMatrix(3, names=CLASSES.names)
    matrix.update(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 1, 1]]))
    console = Console(file=io.StringIO(), width=100)
    console.print(score_table(matrix.scores(), CLASSES, ("mIoU", "mFscore")))
    text = console.file.getvalue()
    for word in ("road", "50.00", "66.67", "tree", "58.33", "75.00 %", "Precision"):
        assert word in text
    assert "nan" not in text
