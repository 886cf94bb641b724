"""Predictor and the files that predictions are written to."""

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
from segcore.checkpoint import CheckpointMeta, run_versions, save_weights
from segcore.data.base import ClassTable, load_classes
from segcore.errors import InputError
from segcore.predict import encode_submission, run, save_label, save_overlay
from segcore.predictor import Predictor, to_pixels
from segcore.recipe import Evaluate, Recipe, to_plain
from segcore.visualize import overlay
from tests.core.tiny_paper import PAPER, published_tensors

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


def test_gray_and_four_channel_arrays_are_images_too() -> None:
    gray = np.full((5, 6), 200, np.uint8)
    np.testing.assert_array_equal(to_pixels(gray), np.full((5, 6, 3), 200))
    assert to_pixels(np.zeros((5, 6, 4), np.uint8)).shape == (5, 6, 3)


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


def test_images_and_folders_give_label_maps_and_overlays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    single = write_png(tmp_path / "single.png", two_halves())
    write_png(tmp_path / "many" / "day" / "b.png", two_halves())
    write_png(tmp_path / "many" / "a.png", two_halves())
    out = tmp_path / "many" / "out"  # inside the input folder: must not become an input of the second run
    for _ in range(2):
        written = run(color_predictor(), [str(single), str(tmp_path / "many")], out, opacity=0.3)
        names = [path.relative_to(out).as_posix() for path in written]
        assert names == [
            "single.png", "single_overlay.jpg", "a.png", "a_overlay.jpg", "day/b.png", "day/b_overlay.jpg",
        ]  # fmt: skip
    assert "wrote 3 label maps and overlays" in capsys.readouterr().out
    with Image.open(out / "single.png") as picture:
        assert picture.mode == "P"
        assert picture.getpalette()[:9] == PALETTE.flatten().tolist()
        label = np.asarray(picture)
    np.testing.assert_array_equal(label, color_predictor()(two_halves()).label)


def test_overlays_go_to_the_show_folder_with_the_given_opacity(tmp_path: Path) -> None:
    single = write_png(tmp_path / "single.png", two_halves())
    run(color_predictor(), [str(single)], tmp_path / "out", opacity=1.0, show_dir=str(tmp_path / "show"))
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["single.png"]
    picture = cv2.imread(str(tmp_path / "show" / "single.jpg"))
    expected = overlay(two_halves(), color_predictor()(two_halves()).label, PALETTE, 1.0)
    assert np.abs(picture[:, :10].astype(int) - expected[:, :10]).max() < 12  # JPEG


def test_a_video_becomes_an_overlay_video_of_the_same_length(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
    for _ in range(4):
        writer.write(two_halves(48, 64))
    writer.release()
    (written,) = run(color_predictor(), [str(tmp_path / "clip.mp4")], tmp_path / "out", opacity=1.0)
    assert written == tmp_path / "out" / "clip_overlay.mp4"
    capture = cv2.VideoCapture(str(written))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    assert len(frames) == 4
    assert frames[0].shape == (48, 64, 3)
    assert frames[0][24, 10, 2] > 200  # red on the left


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.jpg", "the input .*missing.jpg does not exist"),
        ("empty", "the folder .*empty holds no image"),
        ("notes.txt", "notes.txt is neither an image nor a video by its suffix"),
        ("broken.jpg", "broken.jpg is not an image that OpenCV can decode"),
        ("broken.mp4", "broken.mp4 is not a video that OpenCV can decode"),
    ],
)
def test_inputs_that_cannot_be_used_are_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    for file in ("notes.txt", "broken.jpg", "broken.mp4"):
        (tmp_path / file).write_text("nothing")
    with pytest.raises(InputError, match=message):
        run(color_predictor(), [str(tmp_path / name)], tmp_path / "out")


def test_no_input_at_all_is_an_error() -> None:
    with pytest.raises(InputError, match="nothing to predict"):
        run(color_predictor(), [], Path("out"))


def test_two_inputs_with_one_output_are_refused(tmp_path: Path) -> None:
    first, second = write_png(tmp_path / "a" / "x.png", two_halves()), write_png(tmp_path / "b" / "x.png", two_halves())
    with pytest.raises(InputError, match=r"would both be written to .*x\.png"):
        run(color_predictor(), [str(first), str(second)], tmp_path / "out")


def test_an_input_is_never_overwritten(tmp_path: Path) -> None:
    path = write_png(tmp_path / "x.png", two_halves())
    before = path.read_bytes()
    with pytest.raises(InputError, match="would replace an input"):
        run(color_predictor(), [str(path)], tmp_path)
    assert path.read_bytes() == before


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*label\.png"):
        save_label(tmp_path / "file" / "label.png", np.zeros((2, 2), np.uint8), None)
    with pytest.raises(InputError, match=r"cannot write .*o\.jpg"):
        save_overlay(tmp_path / "file" / "o.jpg", two_halves(), np.zeros((24, 32), np.uint8), PALETTE, 0.5)


def test_more_than_256_classes_are_saved_with_16_bits(tmp_path: Path) -> None:
    label = np.array([[0, 255, 256, 299]], np.int16)
    with Image.open(save_label(tmp_path / "wide.png", label, PALETTE)) as picture:
        np.testing.assert_array_equal(np.asarray(picture), label)


def test_submissions_use_the_encoding_of_their_server() -> None:
    label = np.array([[0, 1, 18]], np.uint8)
    np.testing.assert_array_equal(encode_submission("ade20k", label), [[1, 2, 19]])
    np.testing.assert_array_equal(encode_submission("cityscapes", label), [[7, 8, 33]])
    with pytest.raises(InputError, match="not of toy"):
        encode_submission("toy", label)
