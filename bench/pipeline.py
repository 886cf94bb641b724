"""Training samples per second without decoding: region first against plain resize-then-crop.

Three forms of the same protocol (docs/protocol 2): one thread, images in memory, the same random numbers, and
processor time, so that other load on the machine does not count.
- published: resize the whole image, `np.unique` per crop try, every step of the distortion in float32, as the original
  pipelines do;
- plain: our transform with `augment.region_first` off (the fast steps, but the whole image is resized);
- region first: our transform as it trains.
Ours end as the network's input, too: stacked and normalized as a batch of one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import cv2
import numpy as np
import torch

from segcore.data.labels import IGNORE
from segcore.images.photometric import Distortion, draw_distortion
from segcore.images.transforms import (
    CROP_RETRIES,
    MEAN,
    STD,
    TrainTransform,
    random_boxes,
    resize_bounds,
    resize_image,
    resize_label,
    resized_size,
)
from segcore.recipe import Augment
from segcore.training.batches import Batch

SECONDS = 4.0
ROUNDS = 5
CASES = {
    "ADE20K-like": ((512, 683), Augment(scale=(2048, 512), crop=(512, 512)), 1.5),
    "Cityscapes-like": ((1024, 2048), Augment(scale=(2048, 1024), crop=(512, 1024)), 3.0),
}
"""Name -> (image height and width, settings, least ratio of region first to published)."""

Sample = tuple[np.ndarray, np.ndarray]
Transform = Callable[[np.ndarray, np.ndarray, np.random.Generator], object]


def make_samples(size: tuple[int, int], count: int = 6) -> list[Sample]:
    """Return smooth color images with labels of about twenty regions."""
    rng = np.random.default_rng(0)
    samples: list[Sample] = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        cells = rng.integers(0, 8, (4, 5), dtype=np.uint8)
        image = cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
        samples.append((image, cv2.resize(cells, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)))
    return samples


def _convert(values: np.ndarray, factor: float = 1, offset: float = 0) -> np.ndarray:
    return np.clip(values.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)


def _published_distortion(image: np.ndarray, draws: Distortion) -> np.ndarray:
    if draws.brightness is not None:
        image = _convert(image, offset=draws.brightness)
    if draws.contrast is not None and draws.contrast_first:
        image = _convert(image, draws.contrast)
    if draws.saturation is not None:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        hsv[..., 1] = _convert(hsv[..., 1], draws.saturation)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if draws.hue is not None:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + draws.hue) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if draws.contrast is not None and not draws.contrast_first:
        image = _convert(image, draws.contrast)
    return image


def _is_varied(label: np.ndarray, max_ratio: float) -> bool:
    values, counts = np.unique(label, return_counts=True)
    counts = counts[values != IGNORE]
    return len(counts) > 1 and bool(counts.max() / counts.sum() < max_ratio)


def published(augment: Augment) -> Transform:
    """Return the pipeline in the published order and with the published means."""

    def transform(image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        bounds = resize_bounds(augment.scale, float(rng.uniform(*augment.ratio)))
        size = resized_size((image.shape[0], image.shape[1]), bounds)
        image, label = resize_image(image, size), resize_label(label, size)
        boxes = random_boxes(size, augment.crop, rng)
        box = next(boxes)
        for _ in range(CROP_RETRIES):
            if _is_varied(box.cut(label), augment.cat_max_ratio):
                break
            box = next(boxes)
        image, label = box.cut(image), box.cut(label)
        if float(rng.random()) < augment.flip:
            image, label = np.flip(image, axis=1), np.flip(label, axis=1)
        image = _published_distortion(np.ascontiguousarray(image), draw_distortion(rng))
        pixels = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_BGR2RGB)
        cv2.subtract(pixels, np.asarray(MEAN, np.float64).reshape(1, -1), pixels)
        cv2.multiply(pixels, 1 / np.asarray(STD, np.float64).reshape(1, -1), pixels)
        below, beside = augment.crop[0] - pixels.shape[0], augment.crop[1] - pixels.shape[1]
        pixels = cv2.copyMakeBorder(pixels, 0, below, 0, beside, cv2.BORDER_CONSTANT, value=0)
        label = cv2.copyMakeBorder(
            np.ascontiguousarray(label), 0, below, 0, beside, cv2.BORDER_CONSTANT, value=(IGNORE,)
        )
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), torch.from_numpy(
            label.astype(np.int64)
        )

    return transform


def ours(augment: Augment) -> Transform:
    """Return our pipeline, with what the loader and the device do of it."""
    transform = TrainTransform(augment)
    return lambda image, label, rng: Batch.of([transform(image, label, rng)]).to("cpu")


def rate(transform: Transform, samples: list[Sample], seconds: float) -> float:
    """Return samples per second of processor time; every call of this function draws the same random numbers."""
    start, done = time.process_time(), 0
    while time.process_time() - start < seconds:
        image, label = samples[done % len(samples)]
        transform(image, label, np.random.default_rng([7, done]))
        done += 1
    return done / (time.process_time() - start)


def measure(size: tuple[int, int], augment: Augment) -> dict[str, float]:
    """Return the median rate of each form; the rounds alternate, so that other load meets all of them."""
    forms: dict[str, Transform] = {
        "published": published(augment),
        "plain": ours(replace(augment, region_first=False)),
        "region first": ours(augment),
    }
    samples = make_samples(size)
    for form in forms.values():
        rate(form, samples, 0.2)
    rounds = [{name: rate(form, samples, SECONDS / ROUNDS) for name, form in forms.items()} for _ in range(ROUNDS)]
    return {name: float(np.median([row[name] for row in rounds])) for name in forms}


def rows() -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| samples/s, one thread | published | plain | region first | to published | goal | to plain |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for name, (size, augment, goal) in CASES.items():
        rates = measure(size, augment)
        best = rates["region first"]
        values = " | ".join(f"{value:.0f}" for value in rates.values())
        ratios = f"{best / rates['published']:.2f}x | {goal}x | {best / rates['plain']:.2f}x"
        yield f"| {name} {size[0]}x{size[1]}, crop {augment.crop[0]}x{augment.crop[1]} | {values} | {ratios} |"


def main() -> None:
    """Print the table."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, OpenCV {cv2.__version__}\n")
    for row in rows():
        print(row, flush=True)


if __name__ == "__main__":
    main()
