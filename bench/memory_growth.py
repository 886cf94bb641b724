"""Growth of the resident memory while 2,000 images are evaluated, multi-scale + flip, through loader processes.

python bench/memory_growth.py [--images N]
"""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from segcore.data.base import ClassTable, Sample, SegmentationDataset
from segcore.evaluation.evaluate import evaluate
from segcore.recipe import Evaluate

NUM_CLASSES = 150
WARM_UP = 200
TARGET_MIB = 20


class NoiseImages(SegmentationDataset):
    """Random images of varying size, made when they are asked for."""

    name = "noise"
    classes = ClassTable(
        tuple(f"class {i}" for i in range(NUM_CLASSES)), np.zeros((NUM_CLASSES, 3), np.uint8)
    )  # fmt: skip

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images

    def __len__(self) -> int:
        return self.num_images

    def load(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        size = (int(rng.integers(48, 80)), int(rng.integers(48, 112)))
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        return Sample(image, rng.integers(0, NUM_CLASSES, size, dtype=np.uint8), str(index))


def resident_mib() -> float:
    """Return the memory of this process that is in RAM, MiB (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def main() -> int:
    """Print the table; returns 1 where the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    total = parser.parse_args().images + WARM_UP
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, NUM_CLASSES, 3, 4, 1))
    protocol = Evaluate(scale=(96, 64), ratios=(0.5, 1.0, 1.5), flip=True)
    seen: list[float] = []
    marks = {WARM_UP, *(WARM_UP + (total - WARM_UP) * part // 4 for part in range(1, 5))}
    counter = iter(range(1, total + 1))

    def watch(index: int, sample: Sample, prediction: Tensor) -> None:
        if next(counter) in marks:
            gc.collect()
            seen.append(resident_mib())

    evaluate(model, NoiseImages(total), protocol, device=torch.device("cpu"), workers=2, on_prediction=watch)
    growth = seen[-1] - seen[0]
    print(f"{NUM_CLASSES} classes, 3 scales + flip, sizes 48-80 x 48-112, after {WARM_UP} images of warm-up.")
    print(f"Target: less than {TARGET_MIB} MiB.\n")
    print("| images | resident MiB |")
    print("|---|---|")
    for images, value in zip(sorted(marks), seen, strict=True):
        print(f"| {images - WARM_UP} | {value:.1f} |")
    print(f"\nGrowth: {growth:.1f} MiB")
    return int(growth >= TARGET_MIB)


if __name__ == "__main__":
    sys.exit(main())
