"""COCO-Stuff: raw annotations -> the files of 171 classes that family M reads (docs/protocol 1.1, 1.3)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from segcore.data.labels import OUTSIDE, coco_stuff_10k_file_values, coco_stuff_164k
from segcore.data.matlab import read_matlab_label
from segcore.data.prepare.runner import Counts, Job, run_jobs
from segcore.data.read import read_label
from segcore.errors import InputError

_SUFFIX = "_labelTrainIds.png"
_PARTS_10K = {"train": "train2014", "test": "test2014"}
_PARTS_164K = ("train2017", "val2017")


def prepare_10k(root: Path, *, source: Path | None, processes: int, force: bool) -> list[Counts]:
    """Write `annotations/{train2014,test2014}/*_labelTrainIds.png` and lay the images in folders of the same names.

    Args:
        root: folder of the release: images, annotations (`.mat`) and imageLists.
        source: not used here.

    Raises:
        InputError: if the release is not complete, or a file cannot be used.
    """
    if source is not None:
        raise InputError("--source is for Pascal Context only; COCO-Stuff annotations are found in --root")
    stems = {part: _read_stems(root / "imageLists" / f"{name}.txt") for name, part in _PARTS_10K.items()}
    jobs: list[Job] = []
    for part, names in stems.items():
        for name in names:
            path = root / "annotations" / part / f"{name}{_SUFFIX}"
            jobs.append(Job(path, relabel_10k, (root / "annotations" / f"{name}.mat",)))
    counts = run_jobs(jobs, "COCO-Stuff 10k", processes=processes, force=force)
    for part, names in stems.items():
        _place_images(root / "images", part, names)
    return [counts]


def _read_stems(path: Path) -> list[str]:
    if not path.is_file():
        raise InputError(
            f"COCO-Stuff 10k: expected the list {path} of the release; --root must hold images, annotations, imageLists"
        )
    return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]


def _place_images(images: Path, part: str, stems: list[str]) -> None:
    """Link the images of one part into its folder, or copy them where the disk knows no links.

    The folder gets its name last: until it is complete, the data set is read as released.
    """
    folder, partial = images / part, images / f".{part}.partial"
    if folder.is_dir():
        return
    try:
        partial.mkdir(exist_ok=True)
        for stem in stems:
            source, link = images / f"{stem}.jpg", partial / f"{stem}.jpg"
            if not source.is_file():
                raise InputError(f"COCO-Stuff 10k: expected the image {source}, which does not exist")
            if link.exists():
                continue
            try:
                os.link(source, link)
            except OSError:
                shutil.copy2(source, partial / ".copy")
                (partial / ".copy").rename(link)
        partial.rename(folder)
    except OSError as error:
        raise InputError(f"cannot lay the images in {folder}: {error.strerror or error}") from error


def relabel_10k(path: Path) -> np.ndarray:
    """Return the values 0..171 (H, W) uint8 of a `.mat` annotation with the raw ids 0..182.

    Raises:
        InputError: if the file is unusable or holds an id that the release does not use.
    """
    raw = read_matlab_label(path, "S")
    bounded = np.where((raw < 0) | (raw >= OUTSIDE), OUTSIDE, raw).astype(np.uint8)
    return _checked(path, raw, coco_stuff_10k_file_values(bounded), "0 to 182 without the ids never used")


def prepare_164k(root: Path, *, source: Path | None, processes: int, force: bool) -> list[Counts]:
    """Write `annotations/{train2017,val2017}/*_labelTrainIds.png` beside the raw `*.png`.

    Args:
        root: folder that holds annotations.
        source: not used here.

    Raises:
        InputError: if there is no annotation, or a file cannot be used.
    """
    if source is not None:
        raise InputError("--source is for Pascal Context only; COCO-Stuff annotations are found in --root")
    jobs: list[Job] = []
    for part in _PARTS_164K:
        for path in sorted((root / "annotations" / part).glob("*.png")):
            if not path.name.endswith(_SUFFIX) and not path.name.startswith("."):
                jobs.append(Job(path.with_name(path.stem + _SUFFIX), relabel_164k, (path,)))
    if not jobs:
        expected = f"annotations/{_PARTS_164K[0]}/*.png"
        raise InputError(f"COCO-Stuff 164k: expected {expected} in {root}, found none; --root must hold annotations")
    return [run_jobs(jobs, "COCO-Stuff 164k", processes=processes, force=force)]


def relabel_164k(path: Path) -> np.ndarray:
    """Return the labels 0..170 and 255 (H, W) uint8 of a raw PNG with the values 0..181 and 255.

    Raises:
        InputError: if the file is unusable or holds a value that the release does not use.
    """
    raw = read_label(path)
    return _checked(path, raw, coco_stuff_164k(raw), "0 to 181 without the ids never used, or 255")


def _checked(path: Path, raw: np.ndarray, label: np.ndarray, expected: str) -> np.ndarray:
    unknown = np.unique(raw[label == OUTSIDE])
    if len(unknown):
        values = ", ".join(map(str, unknown[:5]))
        raise InputError(f"{path} holds the unknown label id {values}; expected {expected}")
    return label
