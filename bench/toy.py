"""Speed of the generated data set: `python bench/toy.py` prints milliseconds per scene on one core.

Each scene is drawn five times and the fastest counts, so that other programs on the machine disturb little.
"""

from __future__ import annotations

import time

import cv2
import numpy as np

from segcore.data.toy.dataset import ToyScenes

SIZES = ((64, 96), (192, 256), (384, 512), (512, 1024))
SCENES = 40
REPEATS = 5


def fastest(scenes: ToyScenes, index: int) -> float:
    """Return the seconds of the fastest of several drawings of one scene."""
    times: list[float] = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        scenes.load(index)
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Print one line per size."""
    cv2.setNumThreads(1)
    for size in SIZES:
        scenes = ToyScenes("train", SCENES, size)
        milliseconds = 1e3 * np.array([fastest(scenes, index) for index in range(SCENES)])
        mean, slowest = milliseconds.mean(), milliseconds.max()
        print(f"ToyScenes {size[0]}x{size[1]}: {mean:.2f} ms per scene, slowest {slowest:.2f} ms")


if __name__ == "__main__":
    main()
