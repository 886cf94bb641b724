"""Window matching of IIWA at the papers' window counts: SciPy image by image, each with its own copy from the device
and back, against the package's forms. On the CPU that is SciPy in threads; on a GPU also the Triton kernel.

Similarities are dot products of smooth feature maps, a query map and three memory levels, as the network's are. Time is
the median of the wall clock, because threads do not save processor time: run it on a quiet machine.

python bench/iiwa_matching.py [--repeats N] [--batches 1 4]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from iiwa.matching.op import match_windows

GRIDS = {
    "512 crop, 8x8": (8, 8),
    "480 crop, 6x6": (10, 10),
    "576 crop, 6x6": (12, 12),
    "512x1024 crop, 4x8": (16, 16),
    "whole Cityscapes image, 4x8": (32, 32),
}
"""Rows and columns of query windows; the memory levels have 2, 1 and 1 times as many per side."""
CHANNELS = 96
ROUNDING = 1e-12  # times n_q and the largest magnitude
Match = Callable[[Tensor], Tensor]


def smooth_tokens(grid: tuple[int, int], batch: int, generator: torch.Generator) -> Tensor:
    """Return features of a map's windows, (B, windows, C): a few blobs per side, a common part, and some noise."""
    coarse = torch.randn(batch, CHANNELS, *(side // 6 + 2 for side in grid), generator=generator)
    tokens = F.interpolate(coarse, size=grid, mode="bicubic", align_corners=True)
    tokens = tokens + 0.1 * torch.randn(tokens.shape, generator=generator)
    tokens = tokens + 0.5 * torch.randn(batch, CHANNELS, 1, 1, generator=generator)
    return tokens.flatten(2).transpose(1, 2)


def structured_similarity(grid: tuple[int, int], batch: int) -> Tensor:
    """Return similarities (B, n_q, n_k) of a query map with three memory levels."""
    generator = torch.Generator().manual_seed(0)
    levels = [(2 * grid[0], 2 * grid[1]), grid, grid]
    memories = torch.cat([smooth_tokens(level, batch, generator) for level in levels], dim=1)
    return smooth_tokens(grid, batch, generator) @ memories.transpose(1, 2)


def one_by_one(similarity: Tensor) -> Tensor:
    """Solve one image after the other, each with a copy to the host and back."""
    assignments = []
    for image in similarity:
        columns = linear_sum_assignment(image.cpu().numpy(), maximize=True)[1]
        assignments.append(torch.from_numpy(columns).to(image.device))
    return torch.stack(assignments)


def check(similarity: Tensor, match: Match, name: str) -> None:
    """Stop where an assignment is not one to one, or its total is not that of SciPy."""
    assignment, expected = match(similarity), one_by_one(similarity)
    if any(len(set(row)) < len(row) for row in assignment.tolist()):
        raise SystemExit(f"{name}: the assignment is not one to one")
    exact = similarity.double()
    totals = [exact.gather(2, each[..., None]).sum((1, 2)) for each in (assignment, expected)]
    gap = float((totals[0] - totals[1]).abs().max())
    if not gap <= ROUNDING * similarity.shape[1] * float(exact.abs().max()):
        raise SystemExit(f"{name}: the total is {gap} away from the optimum")


def wall_seconds(calls: Sequence[Callable[[], object]], repeats: int, is_gpu: bool) -> list[float]:
    """Return for each call the median time until its result is there; they take turns, the first does not count."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(repeats + 1):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if is_gpu:
                torch.cuda.synchronize()
            if turn:
                taken.append(time.perf_counter() - start)
    return [median(taken) for taken in times]


def bench(device: str, repeats: int, batches: Sequence[int]) -> None:
    """Print the table of one device."""
    forms: dict[str, Match] = {"SciPy one by one": one_by_one, "SciPy threads": partial(match_windows, backend="scipy")}
    if device == "cuda":
        forms["Triton"] = partial(match_windows, backend="triton")
    print("| windows | n_q x n_k | batch | " + " | ".join(f"{name} ms" for name in forms), end=" | ")
    print(" | ".join(f"{name} faster" for name in list(forms)[1:]) + " |")
    print("|---" * (2 + 2 * len(forms)) + "|")
    for name, grid in GRIDS.items():
        for batch in batches:
            similarity = structured_similarity(grid, batch).to(device)
            for form, match in forms.items():
                check(similarity, match, f"{name}, {form}")
            seconds = wall_seconds([partial(match, similarity) for match in forms.values()], repeats, device == "cuda")
            times = " | ".join(f"{1e3 * value:.2f}" for value in seconds)
            ratios = " | ".join(f"{seconds[0] / value:.2f}" for value in seconds[1:])
            print(
                f"| {name} | {similarity.shape[1]}x{similarity.shape[2]} | {batch} | {times} | {ratios} |", flush=True
            )


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="timed runs of every form (default 9)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4], help="(default 1 4)")
    options = parser.parse_args()
    print(f"CPU, wall clock, median of {options.repeats} runs; totals of all forms are equal.\n")
    bench("cpu", options.repeats, options.batches)
    if torch.cuda.is_available():
        print(f"\n{torch.cuda.get_device_name()}, similarities on the device.\n")
        bench("cuda", options.repeats, options.batches)
    else:
        print("\nNo GPU here: nothing was measured on one.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
