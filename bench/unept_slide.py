"""Sliding-window inference of UN-EPT at 512x683 (windows of 480, stride 160) against the way of its release.

The release runs every window twice, one at a time, with the boundary heads, on the plain form of deformable attention.
One thread and processor time, so that other load on the machine does not count. Both must give the same logits.

python bench/unept_slide.py [--repeats N] [--networks r50 deit] [--size 512 683]
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from statistics import median

import torch
from baselines.unept_plain import plain_slide
from torch import Tensor

from segcore.evaluation.inference import slide
from unept.model import UNEPT, unept_deit, unept_r50

NETWORKS = {"r50": unept_r50, "deit": unept_deit}
WINDOW, STRIDE = 480, 160
TARGET = 2.5
TOLERANCE = 1e-3  # of the logits' standard deviation


def ours(model: UNEPT, image: Tensor) -> Tensor:
    """Return the averaged logits of our windows."""
    return slide(model, image, (WINDOW, WINDOW), (STRIDE, STRIDE), batch=8, pad_window=True)


def theirs(model: UNEPT, image: Tensor) -> Tensor:
    """Return the averaged logits of the release's windows."""
    return plain_slide(model, image, WINDOW, STRIDE)


def seconds(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Return the processor time of a run, and what it gives."""
    started = time.process_time()
    result = run()
    return time.process_time() - started, result


def measure(name: str, size: tuple[int, int], repeats: int) -> tuple[float, float]:
    """Return the seconds of the release's way and of ours."""
    torch.manual_seed(0)
    model = NETWORKS[name](150, pretrained=False).eval().to(memory_format=torch.channels_last)
    plain = deepcopy(model)
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    image = image.contiguous(memory_format=torch.channels_last)
    times: list[tuple[float, float]] = []
    with torch.inference_mode():
        for _ in range(repeats):
            before, expected = seconds(lambda: theirs(plain, image))
            after, logits = seconds(lambda: ours(model, image))
            difference = float((logits - expected).abs().max() / expected.std())
            assert difference < TOLERANCE, f"{name} differs from the release's way by {difference:.2e}"
            times.append((before, after))
    return median(time[0] for time in times), median(time[1] for time in times)


def main() -> int:
    """Print the table; returns 1 where a network misses the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2, help="timed runs of each way")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="which to measure")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 683), help="height and width of the image, pixels")
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = (options.size[0], options.size[1])
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    print(f"UN-EPT, {size[0]}x{size[1]}, windows of {WINDOW}, stride {STRIDE}, 150 classes, float32,")
    print(f"1 of {os.cpu_count()} CPU cores, {versions}. Median processor time of {options.repeats} runs.")
    print(f"Target: {TARGET} x. The release runs every window twice; the last column is against one run of each.\n")
    print("| network | release's way, s | ours, s | faster | against single runs |\n|---|---|---|---|---|")
    ratios: list[float] = []
    for name in options.networks:
        before, after = measure(name, size, options.repeats)
        ratios.append(before / after)
        print(f"| {name} | {before:.1f} | {after:.1f} | {ratios[-1]:.2f} | {ratios[-1] / 2:.2f} |", flush=True)
    return 0 if min(ratios) >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
