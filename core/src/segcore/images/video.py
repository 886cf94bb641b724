"""Videos: read and written one frame at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track

from segcore.errors import InputError
from segcore.files import writing

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


def convert_video(source: Path, target: Path, convert: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Write a video (mp4) whose frames are made from those of another, one frame in memory at a time.

    Shapes:
        convert: (H, W, 3) uint8 BGR -> (H, W, 3) uint8 BGR

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
            count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))  # of the container: absent (<= 0) or wrong in some
            total = count if count > 0 else None
            bar = track(_frames(capture, first), source.name, total, console=Console(stderr=True), transient=True)
            for frame in bar:
                writer.write(convert(frame))
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
