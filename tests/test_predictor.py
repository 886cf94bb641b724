"""Predictor: what it takes and what it gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import segcore.build
from segcore import distributed
from segcore.data.base import ClassTable, load_classes
from segcore.errors import InputError
from segcore.predictor import Predictor, to_pixels
from segcore.recipe import Evaluate, Recipe
from segcore.recipe.plain import to_plain
from segcore.weights.files import run_versions, save_weights
from segcore.weights.header import CheckpointMeta
from tests.tiny_paper import PAPER, published_tensors

PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
CLASSES = ClassTable(("red", "green", "blue"), PALETTE)


class StrongestChannel(nn.Module):
    """Classes red, green and blue: the logits are the channels of the image, averaged over 2x2 pixels."""

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        return nn.functional.avg_pool2d(nn.functional.pad(image, (0, width % 2, 0, height % 2)), 2)


def color_predictor(**protocol: object) -> Predictor:
    return Predictor(StrongestChannel(), CLASSES, Evaluate(scale=(64, 48), **protocol), torch.device("cpu"))


def two_halves(height: int = 24, width: int = 32) -> np.ndarray:
    """Return a BGR image, red on the left and blue on the right."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2, 2] = 255
    image[:, width // 2 :, 0] = 255
    return image


def write_png(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def test_arrays_files_and_pil_images_give_the_same_label(tmp_path: Path) -> None:
    image, predictor = two_halves(), color_predictor()
    label = predictor(image).label
    assert label.dtype == np.uint8
    assert (label[:, :14] == 0).all()
    assert (label[:, 18:] == 2).all()
    path = write_png(tmp_path / "a.png", image)
    for other in (path, str(path), Image.open(path), Image.fromarray(np.ascontiguousarray(image[..., ::-1]))):
        np.testing.assert_array_equal(predictor(other).label, label)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 2), (33, 50)])
def test_the_label_has_the_size_of_the_image(size: tuple[int, int]) -> None:
    prediction = color_predictor(ratios=(0.5, 1.0), flip=True)(two_halves(*size), with_probabilities=True)
    assert prediction.label.shape == size
    assert prediction.probabilities is not None
    torch.testing.assert_close(prediction.probabilities.sum(dim=0), torch.ones(size), rtol=1e-5, atol=1e-5)


def test_probabilities_agree_with_the_label_in_both_families() -> None:
    for family in ("M", "S"):
        prediction = color_predictor(family=family)(two_halves(), with_probabilities=True)
        assert prediction.probabilities is not None
        np.testing.assert_array_equal(prediction.probabilities.argmax(dim=0).numpy(), prediction.label)
        torch.testing.assert_close(prediction.probabilities.sum(dim=0), torch.ones(24, 32), rtol=1e-5, atol=1e-5)


def test_flip_pairs_of_absent_classes_are_one_sentence() -> None:
    with pytest.raises(InputError, match=r"^--evaluate\.flip-pairs names class 14; there are 0 to 2$"):
        color_predictor(flip=True, flip_pairs=((14, 15),))
    with pytest.raises(InputError, match=r"^--evaluate\.flip-pairs names class 1 twice"):
        color_predictor(flip=True, flip_pairs=((0, 1), (1, 2)))


def test_gray_and_four_channel_arrays_are_images_too() -> None:
    gray = np.full((5, 6), 200, np.uint8)
    np.testing.assert_array_equal(to_pixels(gray), np.full((5, 6, 3), 200))
    assert to_pixels(np.zeros((5, 6, 4), np.uint8)).shape == (5, 6, 3)


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_16_bit_gray_is_scaled_to_8_bits(mode: str) -> None:
    values = np.array([[0, 257, 128 * 257, 65535]], "<u2" if mode == "I;16" else ">u2")
    image = Image.frombytes(mode, (4, 1), values.tobytes())
    np.testing.assert_array_equal(to_pixels(image), np.repeat([[[0], [1], [128], [255]]], 3, axis=2))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_a_pil_image_without_a_range_of_values_is_refused(mode: str) -> None:
    with pytest.raises(InputError, match=f"got mode {mode}, .* convert it to mode L or RGB"):
        to_pixels(Image.new(mode, (4, 4)))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "8-bit values .*got float32"),
        (np.zeros((3, 4, 4), np.uint8)[None], r"got the shape \(1, 3, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"got the shape \(0, 4, 3\)"),
    ],
)
def test_arrays_that_are_no_images_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        color_predictor()(array)


def _weights(path: Path) -> nn.Module:
    """Save the tiny paper's network as a file of ours."""
    torch.manual_seed(0)
    recipe = PAPER.recipes["toy"]
    model = PAPER.build(recipe, 3)
    meta = CheckpointMeta(
        paper="tiny",
        recipe_name="toy",
        recipe=to_plain(recipe),
        classes=list(CLASSES.names),
        palette=PALETTE.tolist(),
        iteration=0,
        scores={},
        versions=run_versions(),
    )
    save_weights(path, model.state_dict(), meta)
    return model.eval()


def test_a_file_of_ours_says_all_that_a_predictor_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segcore.build, "load_paper", lambda _: PAPER)
    model = _weights(tmp_path / "w.safetensors")
    predictor = Predictor.from_checkpoint(tmp_path / "w.safetensors", device="cpu")
    assert predictor.classes.names == CLASSES.names
    assert not predictor.model.training
    expected = replace(predictor, model=model)(two_halves()).label
    np.testing.assert_array_equal(predictor(two_halves()).label, expected)


def test_a_predictor_starts_nothing_in_a_job_of_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a predictor joined a process group")

    _weights(tmp_path / "w.safetensors")
    monkeypatch.setattr(segcore.build, "load_paper", lambda _: PAPER)
    monkeypatch.setattr(torch.distributed, "init_process_group", refuse)
    job = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    predictor = Predictor.from_checkpoint(tmp_path / "w.safetensors", device="cpu")
    assert predictor(two_halves()).label.shape == (24, 32)
    assert distributed.world().size == 1


def _camvid_recipe() -> Recipe:
    return PAPER.recipes["camvid"]


def test_a_published_file_takes_its_classes_from_the_recipe(tmp_path: Path) -> None:
    names = load_classes("camvid").names
    torch.manual_seed(0)
    torch.save({"state_dict": published_tensors(PAPER.build(_camvid_recipe(), len(names)))}, tmp_path / "p.pth")
    predictor = Predictor.from_checkpoint(tmp_path / "p.pth", paper=PAPER, recipe=_camvid_recipe(), device="cpu")
    assert predictor.classes.names == names
    assert predictor(two_halves()).label.shape == (24, 32)


def test_a_published_file_with_a_recipe_without_fixed_classes_is_refused(tmp_path: Path) -> None:
    recipe = replace(_camvid_recipe(), data=replace(_camvid_recipe().data, dataset="folder"))
    torch.save({"state_dict": published_tensors(PAPER.build(recipe, 3))}, tmp_path / "p.pth")
    with pytest.raises(InputError, match=r"p\.pth does not say its classes"):
        Predictor.from_checkpoint(tmp_path / "p.pth", paper=PAPER, recipe=recipe, device="cpu")
