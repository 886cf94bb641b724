"""Videos: read and written one frame at a time."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from rich.markup import escape
from rich.progress import track

from segcore.console import PlainConsole, printable
from segcore.errors import InputError
from segcore.files import unfinished_name, writing
from segcore.opencv import cv2

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


def redraw_video(source: Path, path: Path, draw: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Write a video (mp4) whose frames are made from those of another, one frame in memory at a time.

    It has its name only when it is whole; an earlier file of that name stays until then.

    Shapes:
        draw: (H, W, 3) uint8 BGR -> (H, W, 3) uint8 BGR

    Raises:
        InputError: if the video cannot be decoded or written.
    """
    capture = cv2.VideoCapture(str(source))
    try:
        is_open, first = capture.read()
        if not is_open:
            raise InputError(f"{source} is not a video that OpenCV can decode; convert it to mp4 or give its frames")
        unfinished = unfinished_name(path).with_suffix(".mp4")
        try:
            rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
            writer = _open_video(unfinished, path, rate, (first.shape[0], first.shape[1]))
            count = _redraw(capture, first, escape(printable(source.name)), writer, draw)
            _check_length(unfinished, count, path)
            with writing(path):
                os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    finally:
        capture.release()
    return path


def _redraw(
    capture: cv2.VideoCapture,
    first: np.ndarray,
    title: str,
    writer: cv2.VideoWriter,
    draw: Callable[[np.ndarray], np.ndarray],
) -> int:
    """Write the frames; returns their number."""
    written = 0
    try:
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))  # of the container: absent (<= 0) or wrong in some
        total = count if count > 0 else None
        bar = track(_frames(capture, first), title, total, console=PlainConsole(stderr=True), transient=True)
        for frame in bar:
            writer.write(draw(frame))
            written += 1
    finally:
        writer.release()
    return written


def _check_length(path: Path, count: int, wanted: Path) -> None:
    """Refuse a video that lacks frames: OpenCV does not say that the disk is full."""
    capture = cv2.VideoCapture(str(path))
    found = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    capture.release()
    if found != count:
        raise InputError(f"cannot write {wanted}: {found} of {count} frames were written; free space and try again")


def _open_video(path: Path, wanted: Path, rate: float, size: tuple[int, int]) -> cv2.VideoWriter:
    """Open a video to write; OpenCV alone does not say why it cannot."""
    with writing(wanted):
        if wanted.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb"):
            pass
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (size[1], size[0]))
    if not writer.isOpened():
        raise InputError(f"cannot write the video {wanted}: this OpenCV has no mp4 encoder; predict its frames")
    return writer


def _frames(capture: cv2.VideoCapture, first: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the frames (H, W, 3) uint8 BGR of a video whose first one was read already."""
    is_open, frame = True, first
    while is_open:
        yield frame
        is_open, frame = capture.read()
