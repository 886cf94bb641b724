"""The files that predictions are written to, and the folders and names that are refused."""

from __future__ import annotations

import errno
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from segcore.commands.predict import PredictOptions, _made_with, plan
from segcore.commands.predict import run as run_plan
from segcore.errors import InputError
from segcore.images.label_files import encode_submission, save_label, save_overlay
from segcore.images.visualize import overlay
from segcore.predictor import Predictor
from tests.test_predictor import CLASSES, PALETTE, StrongestChannel, color_predictor, two_halves, write_png
from tests.tiny_paper import PAPER


def run(predictor: Predictor, inputs: list[str], out: Path, **settings: Any) -> list[Path]:
    """Predict what the options of the command say."""
    return run_plan(predictor, plan(PredictOptions(checkpoint="", inputs=tuple(inputs), out=str(out), **settings)))


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
    run(color_predictor(), [str(single)], tmp_path / "out", opacity=1.0, show_dir=str(tmp_path / "show"), legend=False)
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["single.png"]
    picture = cv2.imread(str(tmp_path / "show" / "single.jpg"))
    expected = overlay(two_halves(), color_predictor()(two_halves()).label, PALETTE, 1.0)
    assert np.abs(picture[:, :10].astype(int) - expected[:, :10]).max() < 12  # JPEG


def test_overlays_carry_a_legend_unless_it_is_not_wanted(tmp_path: Path) -> None:
    single = write_png(tmp_path / "single.png", two_halves())
    heights = []
    for wanted in (True, False):
        run(color_predictor(), [str(single)], tmp_path / f"out{wanted}", legend=wanted)
        heights.append(Image.open(tmp_path / f"out{wanted}" / "single_overlay.jpg").height)
    assert heights[0] > heights[1] == 24


def test_confidence_and_probabilities_are_written_where_asked(tmp_path: Path) -> None:
    single = write_png(tmp_path / "single.png", two_halves())
    written = run(color_predictor(), [str(single)], tmp_path / "out", confidence=True, probabilities=True)
    assert [path.name for path in written] == [
        "single.png", "single_overlay.jpg", "single_confidence.png", "single_probabilities.npy",
    ]  # fmt: skip
    expected = color_predictor()(two_halves(), with_probabilities=True).probabilities
    assert expected is not None
    stored = np.load(written[3])
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored, expected.permute(1, 2, 0).half().numpy())
    confidence = np.asarray(Image.open(written[2]))
    np.testing.assert_array_equal(confidence, (expected.amax(dim=0) * 255).round().numpy())


def test_strips_write_what_the_sliding_window_of_the_whole_picture_does(tmp_path: Path) -> None:
    single = write_png(tmp_path / "single.png", np.tile(two_halves(48, 64), (2, 3, 1)))
    windows = {"mode": "slide", "crop": (32, 32), "stride": (20, 20), "keep_ratio": False}
    predictor = color_predictor(**windows)
    protocol = replace(predictor.protocol, scale=(192, 96))
    predictor = replace(predictor, protocol=protocol)
    options = {"confidence": True, "probabilities": True, "legend": False}
    whole = run(predictor, [str(single)], tmp_path / "whole", **options)
    strips = run(predictor, [str(single)], tmp_path / "strips", strips=True, **options)
    assert [path.name for path in strips] == [path.name for path in whole]
    for one, other in zip(whole, strips, strict=True):
        read = np.load if one.suffix == ".npy" else lambda path: np.asarray(Image.open(path))
        np.testing.assert_array_equal(read(one), read(other))


def test_strips_and_several_scales_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--strips predicts at one scale; leave out --aug-test"):
        plan(PredictOptions(checkpoint="", inputs=("a.png",), out=str(tmp_path), strips=True, aug_test=True))


def write_video(path: Path) -> Path:
    """Write four frames of two halves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
    for _ in range(4):
        writer.write(two_halves(48, 64))
    writer.release()
    return path


class _Capture:
    """The clip, whose container states another number of frames than it has."""

    stated = 0.0

    def __init__(self, path: str) -> None:
        self._capture, self._is_clip = _open_capture(path), Path(path).name == "clip.mp4"

    def get(self, key: int) -> float:
        return self.stated if self._is_clip and key == cv2.CAP_PROP_FRAME_COUNT else self._capture.get(key)

    def __getattr__(self, name: str) -> object:
        return getattr(self._capture, name)


_open_capture = cv2.VideoCapture


@pytest.mark.parametrize("stated", [None, 0.0, 2.0, 9.0, -7.7e17])
def test_a_video_becomes_an_overlay_video_of_the_same_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stated: float | None
) -> None:
    clip = write_video(tmp_path / "clip.mp4")
    with monkeypatch.context() as patch:
        if stated is not None:
            patch.setattr(_Capture, "stated", stated)
            patch.setattr(cv2, "VideoCapture", _Capture)
        (written,) = run(color_predictor(), [str(clip)], tmp_path / "out", opacity=1.0)
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


def test_processes_share_the_inputs_and_every_image_is_predicted_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abcde":
        write_png(tmp_path / "in" / f"{name}.png", two_halves())
    clip = write_video(tmp_path / "clip.mp4")
    inputs = (str(tmp_path / "in"), str(clip))
    whole = plan(PredictOptions(checkpoint="", inputs=inputs, out=str(tmp_path / "out")))
    written = [[path.name for path in run_plan(color_predictor(), whole.share(rank, 2))] for rank in range(2)]
    labels = [[name for name in names if "overlay" not in name] for names in written]
    assert labels == [["a.png", "c.png", "e.png"], ["b.png", "d.png"]]
    assert [name for names in written for name in names if name.endswith("mp4")] == ["clip_overlay.mp4"]
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("wrote 3 label maps and overlays and 1 overlay videos to ")
    assert first.endswith("(process 1 of 2)")
    assert second.startswith("wrote 2 label maps and overlays to ")


def test_no_input_at_all_is_an_error() -> None:
    with pytest.raises(InputError, match="nothing to predict"):
        run(color_predictor(), [], Path("out"))


def test_two_inputs_with_one_output_are_refused(tmp_path: Path) -> None:
    first, second = write_png(tmp_path / "a" / "x.png", two_halves()), write_png(tmp_path / "b" / "x.png", two_halves())
    with pytest.raises(InputError, match=r"would both be written to .*x\.png"):
        run(color_predictor(), [str(first), str(second)], tmp_path / "out")


def test_two_videos_of_one_name_are_refused(tmp_path: Path) -> None:
    first, second = write_video(tmp_path / "a" / "x.mp4"), write_video(tmp_path / "b" / "x.mp4")
    with pytest.raises(InputError, match=r"would both be written to .*x_overlay\.mp4"):
        run(color_predictor(), [str(first), str(second)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "out", "show", "option"),
    [
        ("in/x.png", "in", "", "--out"),
        ("in/x.jpg", "out", "in", "--show-dir"),
        ("in/x.jpg", "out", "link", "--show-dir"),
        ("in/x_overlay.mp4", "in", "", ""),
    ],
)
def test_an_input_is_never_overwritten(tmp_path: Path, source: str, out: str, show: str, option: str) -> None:
    path = write_png(tmp_path / source, two_halves()) if option else write_video(tmp_path / source)
    other = path if option else write_video(tmp_path / "in" / "x.mp4")  # its overlay would be the other video
    (tmp_path / "link").symlink_to(tmp_path / "in")
    before = path.read_bytes()
    show_dir = str(tmp_path / show) if show else ""
    with pytest.raises(InputError, match=f"{option or '--out'}: .*would replace an input"):
        run(color_predictor(), [str(path), str(other)], tmp_path / out, show_dir=show_dir)
    assert path.read_bytes() == before


@pytest.mark.parametrize("opacity", [-0.1, 1.1, float("nan")])
def test_an_impossible_opacity_is_refused_before_anything_is_written(tmp_path: Path, opacity: float) -> None:
    path = write_png(tmp_path / "x.png", two_halves())
    with pytest.raises(InputError, match="--opacity must be between 0 and 1"):
        run(color_predictor(), [str(path)], tmp_path / "out", opacity=opacity)
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot save .*label\.png: .*file is a file, not a folder"):
        save_label(tmp_path / "file" / "label.png", np.zeros((2, 2), np.uint8), None)
    with pytest.raises(InputError, match=r"cannot save .*o\.jpg: .*file is a file, not a folder"):
        save_overlay(tmp_path / "file" / "in" / "o.jpg", two_halves(), np.zeros((24, 32), np.uint8), CLASSES, 0.5)


def test_a_folder_that_refuses_is_named_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write_video(tmp_path / "x.mp4")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write into .*file: .*file is a file, not a folder; .*--out"):
        run(color_predictor(), [str(clip)], tmp_path / "file")
    (tmp_path / "out" / "x_overlay.mp4").mkdir(parents=True)
    with pytest.raises(InputError, match=r"cannot write .*x_overlay\.mp4: Is a directory"):
        run(color_predictor(), [str(clip)], tmp_path / "out")

    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(InputError, match=r"cannot write into .*new: Read-only file system; give another --out"):
        run(color_predictor(), [str(clip)], tmp_path / "new")


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


def test_a_folder_is_predicted_to_its_end_and_the_faulty_files_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Issue 18: the first bad picture ended it."""
    folder = tmp_path / "in"
    for name in "bd":
        write_png(folder / f"{name}.png", two_halves())
    (folder / "a.png").write_bytes((folder / "b.png").read_bytes()[:50])
    (folder / "c.jpg").write_text("nothing")
    (tmp_path / "x.mp4").write_text("nothing")
    clip = write_video(tmp_path / "z.mp4")
    with pytest.raises(InputError, match=r"^3 of 6 inputs could not be predicted, the others were:\n") as raised:
        run(color_predictor(), [str(folder), str(tmp_path / "x.mp4"), str(clip)], tmp_path / "out")
    sentences = str(raised.value).splitlines()[1:]
    assert all(name in said for name, said in zip(("a.png", "c.jpg", "x.mp4"), sentences, strict=True))
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["b.png", "b_overlay.jpg", "d.png", "d_overlay.jpg", "z_overlay.mp4"]
    assert "wrote 2 label maps and overlays and 1 overlay videos" in capsys.readouterr().out


def test_a_second_run_predicts_what_is_missing_or_would_be_different(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in "abcd":
        write_png(folder / f"{name}.png", two_halves())

    def labels(made_with: str) -> list[str]:
        work = plan(PredictOptions(checkpoint="", inputs=(str(folder),), out=str(out)))
        return [path.stem for path in run_plan(color_predictor(), work, made_with)[::2]]

    assert labels("x") == ["a", "b", "c", "d"]
    assert labels("x") == []
    (out / "a.png").unlink()
    (out / "b_overlay.jpg").unlink()
    (out / "c.png").write_bytes((out / "c.png").read_bytes()[:20])
    write_png(folder / "d.png", two_halves(30, 40))
    assert labels("x") == ["a", "b", "c", "d"]
    assert labels("x") == []
    assert labels("y") == ["a", "b", "c", "d"]


def test_what_decides_a_prediction_is_in_its_stamp(tmp_path: Path) -> None:
    weights, recipe = tmp_path / "w.pth", PAPER.recipes["toy"]
    weights.write_text("1")
    options = PredictOptions(checkpoint=str(weights), inputs=())
    found = {
        _made_with(PAPER, recipe, options),
        _made_with(PAPER, recipe, replace(options, out="elsewhere")),
        _made_with(PAPER, recipe, replace(options, aug_test=True)),
        _made_with(PAPER, recipe, replace(options, opacity=0.1)),
        _made_with(PAPER, recipe, replace(options, legend=False)),
        _made_with(PAPER, replace(recipe, run=replace(recipe.run, amp="bf16")), options),
        _made_with(PAPER, replace(recipe, evaluate=replace(recipe.evaluate, scale=(9, 9))), options),
    }
    weights.write_text("2")
    assert len(found | {_made_with(PAPER, recipe, options)}) == 7


def test_images_that_differ_in_their_suffix_alone_are_kept_apart(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in ("plain.jpg", "plain.png", "other.png"):
        write_png(folder / name, two_halves())
    run(color_predictor(), [str(folder)], out)
    assert {path.name for path in out.iterdir()} == {
        *("other.png", "other_overlay.jpg", "plain.jpg.png", "plain.jpg_overlay.jpg"),
        *("plain.png.png", "plain.png_overlay.jpg"),
    }


def test_an_image_that_takes_too_much_memory_is_listed_with_what_needs_less(tmp_path: Path) -> None:
    class Greedy(StrongestChannel):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.empty(2**50) if image.shape[-1] > 60 else super().forward(image)

    folder = tmp_path / "in"
    write_png(folder / "large.png", two_halves(10, 64))
    write_png(folder / "small.png", two_halves(64, 10))
    predictor = replace(color_predictor(), model=Greedy())
    sentence = (
        r"^1 of 2 .*\nout of memory at the image .*large\.png of 64x10 pixels .*--evaluate\.scale or --evaluate\.window"
        r"-batch, set --evaluate\.mode slide, or --run\.amp bf16$"
    )
    with pytest.raises(InputError, match=sentence):
        run(predictor, [str(folder)], tmp_path / "out")
    assert (tmp_path / "out" / "small.png").is_file()


@pytest.mark.parametrize("what", ["overlay", "label", "video"])
def test_a_full_disk_leaves_no_torn_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    out = tmp_path / "out"
    clip, single = write_video(tmp_path / "x.mp4"), write_png(tmp_path / "x.png", two_halves())
    run(color_predictor(), [str(single), str(clip)], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    class Full:
        def __init__(self, *_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real = cv2.VideoWriter

    class Short:  # OpenCV does not say so
        fourcc = staticmethod(real.fourcc)

        def __init__(self, *options: Any) -> None:
            self._writer = real(*options)
            self.isOpened, self.release = self._writer.isOpened, self._writer.release

        def write(self, image: np.ndarray) -> None:
            pass

    if what == "overlay":
        monkeypatch.setattr(os, "replace", Full)
    elif what == "label":
        monkeypatch.setattr(Image.Image, "save", Full)
    else:
        monkeypatch.setattr(cv2, "VideoWriter", Short)
    source, message = (clip, "0 of 4 frames were written") if what == "video" else (single, "No space left on device")
    with pytest.raises(InputError, match=rf"cannot (save|write) .*x.*{message}"):
        run(color_predictor(), [str(source)], out)
    after = {path.name: path.read_bytes() for path in out.iterdir()}
    assert after == before
