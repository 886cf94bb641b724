"""What UN-EPT's boundary maps cost a training sample: computed from the label, against read from their files.

Generated street scenes of ADE20K's typical size as ADE20K files, UN-EPT's published crop (480x480 of a box of 2048x512
times 0.5 to 2). Milliseconds of processor time per image in one process, files in the disk cache; rounds alternate, the
median counts. "as published" is the generator's way: SciPy's distance transform of the whole image for each class.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from segcore.data.ade20k import ADE20K
from segcore.data.labels import IGNORE
from segcore.data.toy.dataset import ToyScenes
from segcore.images.transforms import TrainTransform
from segcore.recipe import Augment
from segcore.training.batches import SampleKey, TrainSet
from unept.boundary.files import encode_offsets, read_offsets
from unept.boundary.maps import DEGREES_PER_STEP, MAX_DISTANCE, MIN_PIXELS, boundary_maps, distance_gradient
from unept.boundary.source import BoundarySource

SIZE = (512, 683)
NUM_IMAGES = 12
CROPS = 4
ROUNDS = 5
AUGMENT = Augment(scale=(2048, 512), ratio=(0.5, 2.0), crop=(480, 480))


def make_tree(root: Path, *, with_maps: bool) -> ADE20K:
    """Write images and labels, and the published form of their maps."""
    scenes = ToyScenes("train", NUM_IMAGES, SIZE)
    folders = {name: root / name / "training" for name in ("images", "annotations", "dt_offset")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    for number in range(NUM_IMAGES):
        sample = scenes.load(number)
        assert sample.label is not None
        raw = np.where(sample.label == IGNORE, 0, sample.label + 1).astype(np.uint8)
        cv2.imwrite(str(folders["images"] / f"{number:02}.jpg"), sample.image)
        cv2.imwrite(str(folders["annotations"] / f"{number:02}.png"), raw)
        if with_maps:
            (folders["dt_offset"] / f"{number:02}.mat").write_bytes(encode_offsets(boundary_maps(sample.label)))
    return ADE20K(root, "train")


def as_published(label: np.ndarray) -> np.ndarray:
    """Compute depth and direction (2, H, W) class by class over the whole image."""
    depth, down, right = np.zeros((3, *label.shape), np.float32)
    for number in np.unique(label):
        mask = label == number
        if number == IGNORE or np.count_nonzero(mask) < MIN_PIXELS:
            continue
        distance = np.asarray(distance_transform_edt(mask), np.float32)
        depth += distance
        for plane, slope in zip((down, right), distance_gradient(distance), strict=True):
            plane += slope * mask
    direction = (np.degrees(np.arctan2(down, right)) + 180) / DEGREES_PER_STEP
    return np.stack([np.minimum(depth, MAX_DISTANCE), direction]).astype(np.uint8)


def milliseconds(work: Callable[[int], object]) -> float:
    """Return the processor time per image of one round."""
    started = time.process_time()
    for number in range(NUM_IMAGES):
        work(number)
    return 1000 * (time.process_time() - started) / NUM_IMAGES


def load(data: TrainSet, number: int) -> object:
    """Load an image with several crops, the same for every form."""
    return [data[SampleKey(number, iteration, number)] for iteration in range(CROPS)]


def measure(plain: ADE20K, stored: ADE20K) -> dict[str, float]:
    """Return the median time of every form."""
    transform = TrainTransform(AUGMENT)
    sets = {
        "sample without maps": TrainSet(plain, transform, 0),
        "sample, maps computed": TrainSet(plain, transform, 0, BoundarySource()),
        "sample, maps from files": TrainSet(stored, transform, 0, BoundarySource()),
    }
    labels = [plain.load_label(number) for number in range(NUM_IMAGES)]
    files = sorted((stored.root / "dt_offset" / "training").glob("*.mat"))
    for label, file in zip(labels, files, strict=True):
        np.testing.assert_array_equal(as_published(label)[0], read_offsets(file, SIZE)[0])
    forms: dict[str, Callable[[int], object]] = {name: partial(load, data) for name, data in sets.items()}
    forms["whole maps, as published"] = lambda number: as_published(labels[number])
    forms["whole maps, computed"] = lambda number: boundary_maps(labels[number])
    forms["whole maps, from files"] = lambda number: read_offsets(files[number], SIZE)
    for work in forms.values():
        milliseconds(work)
    rounds = [{name: milliseconds(work) for name, work in forms.items()} for _ in range(ROUNDS)]
    times = {name: statistics.median(row[name] for row in rounds) for name in forms}
    return {name: value / CROPS if name in sets else value for name, value in times.items()}


def main() -> None:
    """Print the table."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        times = measure(make_tree(Path(first), with_maps=False), make_tree(Path(second), with_maps=True))
    without, computed = times["sample without maps"], times["sample, maps computed"]
    print(f"{os.cpu_count()} cores, OpenCV {cv2.__version__}, images {SIZE[0]}x{SIZE[1]}\n")
    print("| | ms per image | images/s |")
    print("|---|---:|---:|")
    for name, value in times.items():
        print(f"| {name} | {value:.1f} | {1000 / value:.0f} |")
    stored = times["sample, maps from files"]
    share = 100 * (computed - without) / computed
    ratio = times["whole maps, as published"] / times["whole maps, computed"]
    print(
        f"\nMaps take {computed - without:.1f} ms of a sample ({share:.0f} %) where they are computed, "
        f"{stored - without:.1f} ms where they are read. Whole maps are {ratio:.1f} times as fast as published."
    )


if __name__ == "__main__":
    main()
