"""Pascal Context: 459 categories -> 60 labels, from any of three annotation files (docs/protocol 1.3).

- `trainval_merged.json` of PASCAL in Detail: run-length masks per category, drawn in the order of the file;
- the `.mat` files of the 459-class release (`LabelMap`);
- the masks `train.pth` and `val.pth`, which hold the 60 labels already.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from segcore.data.labels import pascal_context_60
from segcore.data.matlab import read_matlab_label
from segcore.data.prepare.detail import read_detail
from segcore.data.prepare.masks import read_masks
from segcore.data.prepare.runner import Counts, Job, check_list, run_jobs, write_list
from segcore.errors import InputError

LABELS = "SegmentationClassContext"
LISTS = "ImageSets/SegmentationContext"
_SPLITS = ("train", "val")
_LAST_CATEGORY = 459


class Source(NamedTuple):
    """Where annotations come from: the kind, and the files."""

    kind: str
    files: tuple[Path, ...]


def prepare(root: Path, *, source: Path | None, processes: int, force: bool) -> list[Counts]:
    """Write `SegmentationClassContext/*.png` (0..59) and `ImageSets/SegmentationContext/{train,val}.txt`.

    Args:
        root: VOCdevkit/VOC2010, or a folder around it.
        source: the JSON file, the folder of the `.mat` files or that of the `.pth` files; None looks in the root.

    Raises:
        InputError: if no annotation is found, or a file that cannot be used.
    """
    devkit = next((path for path in (root, root / "VOC2010", root / "VOCdevkit/VOC2010") if _is_devkit(path)), None)
    if devkit is None:
        raise InputError(f"Pascal Context: {root} has no JPEGImages; --root must name VOCdevkit/VOC2010")
    found = find_source(source or devkit)
    folder = devkit / LABELS
    if found.kind == "json":
        jobs, stems = read_detail(found.files[0], folder)
    elif found.kind == "masks":
        jobs, stems = read_masks(found.files, folder)
    else:
        jobs = [Job(folder / f"{path.stem}.png", relabel_matlab, (path,)) for path in found.files]
        stems = _released_lists(devkit, {path.stem for path in found.files})
    for split, names in stems.items():
        check_list(devkit / LISTS / f"{split}.txt", names, force=force)
    counts = run_jobs(jobs, "Pascal Context", processes=processes, force=force)
    for split, names in stems.items():
        write_list(devkit / LISTS / f"{split}.txt", names, force=force)
    return [counts]


def _is_devkit(path: Path) -> bool:
    return (path / "JPEGImages").is_dir()


def find_source(place: Path) -> Source:
    """Return the annotation files at a place: a file, a folder that holds them, or a devkit around such a folder.

    Raises:
        InputError: if there are none.
    """
    if place.is_file() and place.suffix == ".json":
        return Source("json", (place,))
    if place.is_file() and place.suffix == ".pth":
        return Source("masks", (place,))
    if (place / "trainval_merged.json").is_file():
        return Source("json", (place / "trainval_merged.json",))
    for folder in (place, place / "trainval"):
        files = tuple(sorted(folder.glob("*.mat")))
        if files:
            return Source("matlab", files)
    masks = tuple(place / f"{split}.pth" for split in _SPLITS if (place / f"{split}.pth").is_file())
    if masks:
        return Source("masks", masks)
    expected = "trainval_merged.json, trainval/*.mat (459 classes), or train.pth and val.pth"
    raise InputError(f"Pascal Context: expected {expected} in {place}, found none; --source names the file or folder")


def relabel_matlab(path: Path) -> np.ndarray:
    """Return the labels 0..59 (H, W) uint8 of a 459-class annotation; categories that are not listed are background.

    Raises:
        InputError: if the file is unusable or holds an id above 459.
    """
    raw = read_matlab_label(path, "LabelMap")
    unknown = np.unique(raw[(raw < 0) | (raw > _LAST_CATEGORY)])
    if len(unknown):
        values = ", ".join(map(str, unknown[:5]))
        raise InputError(f"{path} holds the unknown label id {values}; expected 0 to {_LAST_CATEGORY}")
    return pascal_context_60(raw)


def _released_lists(devkit: Path, annotated: set[str]) -> dict[str, list[str]]:
    """Return the stems of train and val: the 459-class release splits as VOC2010 does (`ImageSets/Main`)."""
    stems: dict[str, list[str]] = {}
    for split in _SPLITS:
        if (devkit / LISTS / f"{split}.txt").is_file():
            continue
        path = devkit / "ImageSets" / "Main" / f"{split}.txt"
        if not path.is_file():
            raise InputError(
                f"Pascal Context: the .mat files name no split; expected {devkit / LISTS / f'{split}.txt'} or {path}"
            )
        stems[split] = sorted(annotated.intersection(path.read_text("utf-8").split()))
    return stems
