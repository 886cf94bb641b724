"""Tiny valid trees of every layout of docs/protocol 1.1, with every label value that is remapped.

Each builder writes two training and two test images of 24x32 pixels; their labels repeat all `values` of the layout.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from segcore.commands.main import main
from segcore.data import create_dataset
from segcore.recipe import Data

SIZE = (24, 32)
IGNORE = 255
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label ids of the train ids 0..18 (docs/protocol 1.3)."""
NEVER_USED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
"""COCO-Stuff ids 1..182 without a pixel."""


def save_image(path: Path, seed: int = 0) -> Path:
    """Write random colors, as JPEG or PNG by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def pattern(values: Sequence[int]) -> np.ndarray:
    """Return a map of the size of the images that repeats the values, in order, pixel by pixel."""
    return np.resize(np.asarray(values), SIZE)


def save_label(path: Path, values: Sequence[int]) -> Path:
    """Write the pattern of the values as PNG, or as the field S of a `.mat` file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    label = pattern(values).astype(np.uint8)
    if path.suffix == ".mat":
        savemat(path, {"S": label, "names": np.array(["a", "b"], dtype=object)}, do_compression=True)
    else:
        Image.fromarray(label).save(path)
    return path


def save_list(path: Path, stems: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{stem}\n" for stem in stems))
    return path


@dataclass(frozen=True)
class Layout:
    """A layout: how its tree is made and what is read from it.

    Attributes:
        dataset: name in `segcore data list`.
        values: raw value -> train id.
        build: writes the tree into a folder, labels as the pattern of the given values.
        stems: names of the training and of the test samples.
    """

    dataset: str
    values: Mapping[int, int]
    build: Callable[[Path, Sequence[int]], None]
    stems: tuple[tuple[str, ...], tuple[str, ...]]
    splits: tuple[str, str] = ("train", "val")


Builder = Callable[[Path, Sequence[int]], None]


def _simple(images: str, labels: str, image_end: str, label_end: str, parts: tuple[str, str]) -> Builder:
    """Return a builder of a layout of two folders; {part} is the name of the split's folder."""

    def build(root: Path, values: Sequence[int]) -> None:
        for part in parts:
            for i in range(2):
                stem = f"{part}_{i}"
                save_image(root / images.format(part=part) / f"{stem}{image_end}", i)
                save_label(root / labels.format(part=part) / f"{stem}{label_end}", values)

    return build


def _names(parts: tuple[str, str], stems: str = "{part}_{i}") -> tuple[tuple[str, ...], tuple[str, ...]]:
    first, second = (tuple(stems.format(part=part, i=i) for i in range(2)) for part in parts)
    return first, second


def _cityscapes(kind: str, ending: str, parts: tuple[str, str] = ("train", "val")) -> Builder:
    def build(root: Path, values: Sequence[int]) -> None:
        for part in parts:
            for i in range(2):
                stem = f"{part}ville/{part}ville_00000{i}_000019"
                save_image(root / "leftImg8bit" / part / f"{stem}_leftImg8bit.png", i)
                save_label(root / kind / part / f"{stem}_{kind}_{ending}.png", values)

    return build


def _pascal(root: Path, values: Sequence[int]) -> None:
    for split, year in (("train", 2008), ("val", 2009)):
        stems = [f"{year}_00000{i}" for i in range(2)]
        save_list(root / "ImageSets/SegmentationContext" / f"{split}.txt", stems)
        for i, stem in enumerate(stems):
            save_image(root / "JPEGImages" / f"{stem}.jpg", i)
            save_label(root / "SegmentationClassContext" / f"{stem}.png", values)
    save_image(root / "JPEGImages/2007_000001.jpg")  # of another challenge, in no list


def _coco_raw(root: Path, values: Sequence[int]) -> None:
    for part in ("train", "test"):
        stems = [f"COCO_train2014_{part}{i}" for i in range(2)]
        save_list(root / "imageLists" / f"{part}.txt", stems)
        for i, stem in enumerate(stems):
            save_image(root / "images" / f"{stem}.jpg", i)
            save_label(root / "annotations" / f"{stem}.mat", values)


def _lip(root: Path, values: Sequence[int]) -> None:
    for split in ("train", "val"):
        stems = [f"{split}_{i}" for i in range(2)]
        save_list(root / f"{split}_id.txt", stems)
        for i, stem in enumerate([*stems, f"{split}_unlisted"]):
            save_image(root / f"{split}_images" / f"{stem}.jpg", i)
            save_label(root / f"{split}_segmentations" / f"{stem}.png", values)
    save_image(root / "testing_images/test_0.jpg")


def _train_ids(num_classes: int) -> dict[int, int]:
    return {**{value: value for value in range(num_classes)}, IGNORE: IGNORE}


def _reduced(num_classes: int) -> dict[int, int]:
    return {0: IGNORE, **{value: value - 1 for value in range(1, num_classes + 1)}}


def _squeezed(first: int, unlabeled: int) -> dict[int, int]:
    """Return raw id -> class of 171, ids counted from `first`."""
    used = [value for value in range(1, 183) if value not in NEVER_USED]
    return {unlabeled: IGNORE, **{value - 1 + first: number for number, value in enumerate(used)}}


def _restored() -> dict[int, int]:
    """Return converted value 0..171 -> class of 182."""
    used = [value for value in range(1, 183) if value not in NEVER_USED]
    return {0: IGNORE, **{number + 1: value - 1 for number, value in enumerate(used)}}


_LABEL_IDS = {**dict.fromkeys((*range(34), IGNORE), IGNORE), **{raw: i for i, raw in enumerate(CITYSCAPES_IDS)}}
_CITY_NAMES = _names(("train", "val"), "{part}ville/{part}ville_00000{i}_000019_leftImg8bit")
_PASCAL_NAMES = (("2008_000000", "2008_000001"), ("2009_000000", "2009_000001"))
_COCO_RAW_NAMES = _names(("train", "test"), "COCO_train2014_{part}{i}")
_COCO_10K = _simple("images/{part}", "annotations/{part}", ".jpg", "_labelTrainIds.png", ("train2014", "test2014"))
_PARTS_164K = ("train2017", "val2017")
_UNEPT = _simple("{part}/image", "{part}/label", ".jpg", ".png", ("train", "val"))
_BDD = _simple("images/10k/{part}", "labels/sem_seg/masks/{part}", ".jpg", ".png", ("train", "val"))
_BDD_OLD = _simple("seg/images/{part}", "seg/labels/{part}", ".jpg", "_train_id.png", ("train", "val"))
_ADE = _simple("images/{part}", "annotations/{part}", ".jpg", ".png", ("training", "validation"))
_COCO_CONVERTED = _simple("images/{part}", "annotations/{part}", ".jpg", "_labelTrainIds.png", _PARTS_164K)
_COCO_PUBLISHED = _simple("images/{part}", "annotations/{part}", ".jpg", ".png", _PARTS_164K)
_SPLITS_10K = ("train", "test")
_STEMS = _names(("train", "val"))

LAYOUTS = {
    "ade20k": Layout("ade20k", _reduced(150), _ADE, _names(("training", "validation"))),
    "cityscapes train ids": Layout("cityscapes", _train_ids(19), _cityscapes("gtFine", "labelTrainIds"), _CITY_NAMES),
    "cityscapes label ids": Layout("cityscapes", _LABEL_IDS, _cityscapes("gtFine", "labelIds"), _CITY_NAMES),
    "cityscapes coarse": Layout(
        "cityscapes",
        _train_ids(19),
        _cityscapes("gtCoarse", "labelTrainIds", ("train_extra", "val")),
        _names(("train_extra", "val"), "{part}ville/{part}ville_00000{i}_000019_leftImg8bit"),
        ("train_extra", "coarse_val"),
    ),
    "pascal context 60": Layout("pascal_context_60", {v: v for v in range(60)}, _pascal, _PASCAL_NAMES),
    "pascal context 59": Layout("pascal_context_59", _reduced(59), _pascal, _PASCAL_NAMES),
    "pascal context 60, unept": Layout("pascal_context_60", {v: v for v in range(60)}, _UNEPT, _STEMS),
    "pascal context 59, unept": Layout("pascal_context_59", _reduced(59), _UNEPT, _STEMS),
    "coco-stuff 10k": Layout(
        "coco_stuff_10k", _reduced(171), _COCO_10K, _names(("train2014", "test2014")), _SPLITS_10K
    ),
    "coco-stuff 10k raw": Layout("coco_stuff_10k", _squeezed(1, 0), _coco_raw, _COCO_RAW_NAMES, _SPLITS_10K),
    "coco-stuff 10k, 182": Layout(
        "coco_stuff_10k_182", _restored(), _COCO_10K, _names(("train2014", "test2014")), _SPLITS_10K
    ),
    "coco-stuff 10k raw, 182": Layout("coco_stuff_10k_182", _reduced(182), _coco_raw, _COCO_RAW_NAMES, _SPLITS_10K),
    "coco-stuff 164k": Layout("coco_stuff_164k", _train_ids(171), _COCO_CONVERTED, _names(_PARTS_164K)),
    "coco-stuff 164k raw": Layout("coco_stuff_164k", _squeezed(0, IGNORE), _COCO_PUBLISHED, _names(_PARTS_164K)),
    "lip": Layout("lip", {v: v for v in range(20)}, _lip, _STEMS),
    "bdd100k": Layout("bdd100k", _train_ids(19), _BDD, _STEMS),
    "bdd100k, older": Layout("bdd100k", _train_ids(19), _BDD_OLD, _STEMS),
}


def build(name: str, root: Path) -> Layout:
    """Write the tree of a layout with all its values, and return it."""
    layout = LAYOUTS[name]
    layout.build(root, list(layout.values))
    return layout


Polygon = Sequence[tuple[int, int]]


def save_polygons(path: Path, objects: Sequence[tuple[str, Polygon]], deleted: Sequence[str] = ()) -> Path:
    """Write a Cityscapes annotation of the size of the images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [{"label": name, "polygon": [list(point) for point in polygon]} for name, polygon in objects]
    entries += [{"label": name, "polygon": [[0, 0], [31, 0], [31, 23], [0, 23]], "deleted": 1} for name in deleted]
    path.write_text(json.dumps({"imgHeight": SIZE[0], "imgWidth": SIZE[1], "objects": entries}))
    return path


def prepare(dataset: str, root: Path, *words: str) -> int:
    """Run `segcore data prepare` in this process; returns its exit code."""
    return main(["data", "prepare", dataset, "--root", str(root), "--processes", "1", *words])


def labels_of(dataset: str, root: Path, split: str) -> list[np.ndarray]:
    """Return the train ids of every image of a split."""
    data = create_dataset(Data(dataset=dataset), str(root), split)
    return [data.load_label(i) for i in range(len(data))]
