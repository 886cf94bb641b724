"""Samples read and decoded per second by each kind of data set: image and label, one thread, files in the disk cache.

Images are smooth colors with noise, labels about fifty regions, of the size that the data set typically has.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from scipy.io import savemat

from segcore.data import create_dataset
from segcore.recipe import Data

SECONDS = 1.5
NUM_IMAGES = 6


class Kind(NamedTuple):
    """A data set kind: the places of its files below the root, {} being the number of the image."""

    title: str
    dataset: str
    split: str
    size: tuple[int, int]
    image: str
    label: str
    stems: str = ""


_CITY = "synthville/synthville_{:06}_000019"
_CITY_IMAGE = f"leftImg8bit/val/{_CITY}_leftImg8bit.png"
KINDS = (
    Kind(
        "Cityscapes, train ids",
        "cityscapes",
        "val",
        (1024, 2048),
        _CITY_IMAGE,
        f"gtFine/val/{_CITY}_gtFine_labelTrainIds.png",
    ),
    Kind(
        "Cityscapes, label ids",
        "cityscapes",
        "val",
        (1024, 2048),
        _CITY_IMAGE,
        f"gtFine/val/{_CITY}_gtFine_labelIds.png",
    ),
    Kind("ADE20K", "ade20k", "val", (512, 683), "images/validation/{}.jpg", "annotations/validation/{}.png"),
    Kind(
        "Pascal Context",
        "pascal_context_59",
        "val",
        (375, 500),
        "JPEGImages/{}.jpg",
        "SegmentationClassContext/{}.png",
        "ImageSets/SegmentationContext/val.txt",
    ),
    Kind(
        "COCO-Stuff 10k, .mat",
        "coco_stuff_10k",
        "test",
        (480, 640),
        "images/{}.jpg",
        "annotations/{}.mat",
        "imageLists/test.txt",
    ),
    Kind(
        "COCO-Stuff 10k, converted",
        "coco_stuff_10k",
        "test",
        (480, 640),
        "images/test2014/{}.jpg",
        "annotations/test2014/{}_labelTrainIds.png",
    ),
    Kind(
        "COCO-Stuff 164k, raw",
        "coco_stuff_164k",
        "val",
        (480, 640),
        "images/val2017/{}.jpg",
        "annotations/val2017/{}.png",
    ),
    Kind(
        "COCO-Stuff 164k, converted",
        "coco_stuff_164k",
        "val",
        (480, 640),
        "images/val2017/{}.jpg",
        "annotations/val2017/{}_labelTrainIds.png",
    ),
    Kind("LIP", "lip", "val", (400, 300), "val_images/{}.jpg", "val_segmentations/{}.png"),
    Kind("BDD100K", "bdd100k", "val", (720, 1280), "images/10k/val/{}.jpg", "labels/sem_seg/masks/val/{}.png"),
)


def make_pair(size: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (H, W, 3) and a label (H, W), both uint8, the labels 1 to 10 (classes in every encoding)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    noise = rng.integers(0, 16, image.shape, dtype=np.uint8)
    cells = cv2.resize(rng.random((7, 8)), size[::-1], interpolation=cv2.INTER_CUBIC)
    return cv2.add(image, noise), np.clip(cells * 10, 1, 10).astype(np.uint8)


def make_tree(root: Path, kind: Kind) -> None:
    """Write a few images and labels."""
    for number in range(NUM_IMAGES):
        image, label = make_pair(kind.size, number)
        for place in (kind.image, kind.label):
            (root / place.format(number)).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / kind.image.format(number)), image)
        target = root / kind.label.format(number)
        if target.suffix == ".mat":
            savemat(target, {"S": label}, do_compression=True)
        else:
            Image.fromarray(label).save(target)
    if kind.stems:
        (root / kind.stems).parent.mkdir(parents=True, exist_ok=True)
        (root / kind.stems).write_text("".join(f"{number}\n" for number in range(NUM_IMAGES)))


def rate(read: Callable[[int], object]) -> float:
    """Return calls per second, over all images in turn; the first round is not counted."""
    for index in range(NUM_IMAGES):
        read(index)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        read(count % NUM_IMAGES)
        count += 1
    return count / (time.perf_counter() - started)


def main() -> None:
    """Print samples and labels per second of every kind."""
    cv2.setNumThreads(1)
    print("| data set | size | samples/s | labels alone/s |")
    print("|---|---|---|---|")
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            make_tree(Path(folder), kind)
            dataset = create_dataset(Data(dataset=kind.dataset), folder, kind.split)
            row = (f"{kind.size[0]}x{kind.size[1]}", f"{rate(dataset.load):.0f}", f"{rate(dataset.load_label):.0f}")
        print(f"| {kind.title} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
