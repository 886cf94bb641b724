"""Writing of predictions: label maps, overlays, videos, and the encodings of the test servers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from segcore.data.base import IMAGE_SUFFIXES, find_files, load_classes
from segcore.data.labels import cityscapes_label_ids, cityscapes_train_ids, reduce_zero_label
from segcore.errors import InputError
from segcore.files import Target, check_opacity, check_targets, make_folder, writing
from segcore.images.visualize import overlay
from segcore.predictor import Predictor, to_pixels

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


class _Job(NamedTuple):
    """An image to predict, and the name of what is written for it (a relative path without suffix)."""

    source: Path
    name: str


def run(
    predictor: Predictor, inputs: Sequence[str], out_dir: Path, *, opacity: float = 0.5, show_dir: str = ""
) -> list[Path]:
    """Predict images, folders of images and videos, and say what was written.

    An image gives the label map OUT/NAME.png (palette PNG of class numbers) and an overlay, SHOW/NAME.jpg or, without
    `show_dir`, OUT/NAME_overlay.jpg. A video gives the overlay video OUT/NAME_overlay.mp4.

    Args:
        inputs: image files, folders (searched recursively; NAME is then the path inside) and video files.
        opacity: of the overlays, 0 to 1.

    Returns:
        The files written, in order.

    Raises:
        InputError: for an input that does not exist or cannot be read, an empty folder, outputs that collide with one
            another or with an input, or a folder that cannot be written.
    """
    check_opacity(opacity)
    jobs, videos = _sort_inputs(inputs, [out_dir, Path(show_dir or out_dir)])
    check_targets(_targets(jobs, videos, out_dir, show_dir), [*(job.source for job in jobs), *videos])
    make_folder(out_dir, "--out")
    if show_dir:
        make_folder(Path(show_dir), "--show-dir")
    written: list[Path] = []
    for job in track(jobs, "predicting", console=Console(stderr=True), transient=True, disable=len(jobs) < 2):
        image = to_pixels(job.source)
        label = predictor(image).label
        written.append(save_label(_label_path(job, out_dir), label, predictor.classes.palette))
        picture = _overlay_path(job, out_dir, show_dir)
        written.append(save_overlay(picture, image, label, predictor.classes.palette, opacity))
    for video in videos:
        written.append(predict_video(predictor, video, _video_path(video, out_dir), opacity))
    parts = [f"{len(jobs)} label maps and overlays"] if jobs else []
    parts += [f"{len(videos)} overlay videos"] if videos else []
    Console().print(f"wrote {' and '.join(parts)} to {out_dir}", soft_wrap=True, highlight=False)
    return written


def _sort_inputs(inputs: Sequence[str], outputs: Sequence[Path]) -> tuple[list[_Job], list[Path]]:
    """Return the images and the videos among the inputs, folders expanded without output folders inside them."""
    jobs: list[_Job] = []
    videos: list[Path] = []
    if not inputs:
        raise InputError("nothing to predict: give image files, folders of images or a video file")
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            inner = [folder.resolve() for folder in outputs if path.resolve() in folder.resolve().parents]
            names = [
                name
                for name in find_files(path, IMAGE_SUFFIXES)
                if not any(folder in (path / name).resolve().parents for folder in inner)
            ]
            if not names:
                raise InputError(f"the folder {path} holds no image ({', '.join(IMAGE_SUFFIXES)})")
            jobs += [_Job(path / name, str(Path(name).with_suffix(""))) for name in names]
        elif not path.exists():
            raise InputError(f"the input {path} does not exist; give image files, folders of images or a video file")
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            videos.append(path)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            jobs.append(_Job(path, path.stem))
        else:
            known = ", ".join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
            raise InputError(f"{path} is neither an image nor a video by its suffix (known: {known})")
    return jobs, videos


def _label_path(job: _Job, out_dir: Path) -> Path:
    return out_dir / f"{job.name}.png"


def _overlay_path(job: _Job, out_dir: Path, show_dir: str) -> Path:
    return Path(show_dir, f"{job.name}.jpg") if show_dir else out_dir / f"{job.name}_overlay.jpg"


def _video_path(video: Path, out_dir: Path) -> Path:
    return out_dir / f"{video.stem}_overlay.mp4"


def _targets(jobs: Sequence[_Job], videos: Sequence[Path], out_dir: Path, show_dir: str) -> Iterator[Target]:
    """Yield every file that will be written."""
    for job in jobs:
        yield Target(_label_path(job, out_dir), job.source, "--out")
        yield Target(_overlay_path(job, out_dir, show_dir), job.source, "--show-dir" if show_dir else "--out")
    for video in videos:
        yield Target(_video_path(video, out_dir), video, "--out")


def save_label(path: Path, label: np.ndarray, palette: np.ndarray | None) -> Path:
    """Write a label map as PNG: 8 bit, with colors where a palette is given; 16 bit gray above 255 classes.

    Shapes:
        label (H, W) integers, palette (K, 3) uint8 RGB
    """
    if label.dtype.itemsize > 1 and label.max(initial=0) > 255:
        picture = Image.fromarray(label.astype(np.uint16))
    else:
        picture = Image.fromarray(label.astype(np.uint8))
        if palette is not None:
            picture.putpalette(np.asarray(palette, np.uint8)[:256].tobytes())
    with writing(path):
        picture.save(path)
    return path


def save_overlay(path: Path, image: np.ndarray, label: np.ndarray, palette: np.ndarray, opacity: float) -> Path:
    """Write the class colors blended over an image, in the format of the suffix.

    Shapes:
        image (H, W, 3) uint8 BGR, label (H, W), palette (K, 3) uint8 RGB
    """
    _, data = cv2.imencode(path.suffix, overlay(image, label, palette, opacity))
    with writing(path):
        path.write_bytes(data.tobytes())
    return path


def predict_video(predictor: Predictor, source: Path, target: Path, opacity: float) -> Path:
    """Write a video (mp4) with the class colors blended over every frame, one frame in memory at a time.

    Raises:
        InputError: if the video cannot be decoded or written.
    """
    capture = cv2.VideoCapture(str(source))
    try:
        is_open, first = capture.read()
        if not is_open:
            raise InputError(f"{source} is not a video that OpenCV can decode; convert it to mp4 or give its frames")
        writer = _open_video(target, capture.get(cv2.CAP_PROP_FPS) or 25.0, (first.shape[1], first.shape[0]))
        try:
            count = int(
                capture.get(cv2.CAP_PROP_FRAME_COUNT)
            )  # what the container says: absent (<= 0) or wrong in some
            total = count if count > 0 else None
            bar = track(_frames(capture, first), source.name, total, console=Console(stderr=True), transient=True)
            for frame in bar:
                label = predictor(frame).label
                writer.write(overlay(frame, label, predictor.classes.palette, opacity))
        finally:
            writer.release()
    finally:
        capture.release()
    return target


def _open_video(target: Path, rate: float, size: tuple[int, int]) -> cv2.VideoWriter:
    """Open a video to write, size (width, height); OpenCV alone does not say why it cannot."""
    with writing(target), open(target, "wb"):
        pass
    writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
    if not writer.isOpened():
        target.unlink()
        raise InputError(f"cannot write the video {target}: this OpenCV has no mp4 encoder; predict its frames")
    return writer


def _frames(capture: cv2.VideoCapture, first: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the frames (H, W, 3) uint8 BGR of a video whose first one was read already."""
    is_open, frame = True, first
    while is_open:
        yield frame
        is_open, frame = capture.read()


def encode_submission(dataset_name: str, label: np.ndarray) -> np.ndarray:
    """Return class numbers in the encoding of a data set's test server (docs/protocol 8).

    Shapes:
        (H, W) train ids -> (H, W) uint8: ade20k id + 1; cityscapes the dataset's own label ids

    Raises:
        InputError: for a data set without a known encoding.
    """
    encoders = {"ade20k": lambda ids: (ids + 1).astype(np.uint8), "cityscapes": cityscapes_label_ids}
    if dataset_name not in encoders:
        raise InputError(
            f"--format-only knows the test servers of {' and '.join(encoders)}, not of {dataset_name}; --out alone "
            "writes label maps of class numbers"
        )
    return encoders[dataset_name](label)


def submission_palette(dataset_name: str) -> np.ndarray | None:
    """Return the colors (256, 3) uint8 RGB of a submission's values; None where the server wants plain gray files."""
    if dataset_name != "cityscapes":
        return None
    palette = np.zeros((256, 3), np.uint8)
    colors = load_classes(dataset_name).palette
    palette[cityscapes_label_ids(np.arange(len(colors), dtype=np.uint8))] = colors
    return palette


def decode_submission(dataset_name: str, values: np.ndarray) -> np.ndarray:
    """Return class numbers from the encoding of a data set's test server, 255 for values that are no class.

    Shapes:
        (H, W) uint8 -> (H, W) uint8

    Raises:
        InputError: for a data set without a known encoding.
    """
    decoders = {"ade20k": reduce_zero_label, "cityscapes": cityscapes_train_ids}
    if dataset_name not in decoders:
        raise InputError(
            f"only {' and '.join(decoders)} have a test server's encoding, not {dataset_name}; expected class numbers"
        )
    return decoders[dataset_name](values)
