"""The gallery of a report: predictions on a few test images, written beside the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segcore.data.base import SegmentationDataset
from segcore.evaluation.evaluate import evenly_spaced
from segcore.files import atomic_write, make_folder
from segcore.opencv import cv2
from segcore.predictor import Predictor
from segcore.report.run_report import Picture

_LONGEST_NAME = 200
"""Bytes of a picture's name in its files' names."""


def make_pictures(predictor: Predictor, dataset: SegmentationDataset, count: int) -> list[Picture]:
    """Predict `count` images spread evenly over a data set."""
    samples = [dataset.load(index) for index in evenly_spaced(len(dataset), count)]
    return [Picture(s.name, s.image, s.label, predictor(s.image).label) for s in samples]


def write_gallery(folder: str | Path, pictures: list[Picture]) -> None:
    """Write pictures as PNG files for `read_gallery`, in place of an earlier gallery.

    Label maps hold class numbers, 255 = ignore; a picture's place in the list goes before its name.
    """
    target = make_folder(Path(folder), "WORK_DIR")
    for old in target.glob("*.png"):
        old.unlink()
    for number, picture in enumerate(pictures):
        stem = f"{number:03d} {_shortened(picture.name)}".replace("/", "_")
        maps = {"image": picture.image, "prediction": picture.prediction.astype(np.uint8)}
        if picture.label is not None:
            maps["label"] = picture.label
        for kind, pixels in maps.items():
            with atomic_write(target / f"{stem}.{kind}.png", is_flushed=False) as file:
                file.write(cv2.imencode(".png", pixels)[1].tobytes())


def _shortened(name: str) -> str:
    """Cut a name in the middle to what a file system takes beside the rest, 255 bytes in all."""
    while len(name.encode()) > _LONGEST_NAME:
        half = len(name) // 2
        name = f"{name[: half - 2]}…{name[half + 2 :]}"
    return name
