"""How honest the intervals of `segcore compare` are: whole studies are simulated, whose truth is known.

A simulated network has a true hit rate for every class; every seed of it shifts all hit rates a little, every image
makes classes larger or smaller, harder or easier, and the same images are given to all networks. The truth is the score
over very many images and seeds.

    python bench/coverage.py                     1000 studies for each number of seeds, about five minutes
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from segcore.evaluation.statistics import Bootstrap, Counts

CLASSES, IMAGES, NETWORKS = 8, 120, 3
SEED_SPREAD, IMAGE_SPREAD, INTERACTION = 0.06, 0.5, 0.2  # deviations of the logit of a hit
TRUTH_IMAGES, TRUTH_SEEDS = 4000, 600


def simulate(generator: np.random.Generator, skill: np.ndarray, num_seeds: int, num_images: int) -> list[list[Counts]]:
    """Return the counts of every network and seed on the same images: skill (networks, classes) are logits of a hit."""
    share = generator.dirichlet(np.full(CLASSES, 0.4), size=num_images)  # classes come in lumps
    labeled = np.round(share * 10_000).astype(np.int64)
    hardness = generator.normal(0, IMAGE_SPREAD, (num_images, CLASSES))
    runs: list[list[Counts]] = []
    for logits in skill:
        seeds: list[Counts] = []
        for _ in range(num_seeds):
            shift = generator.normal(0, SEED_SPREAD) + generator.normal(0, SEED_SPREAD, CLASSES)
            luck = generator.normal(0, INTERACTION, (num_images, CLASSES))
            hits = labeled / (1 + np.exp(-(logits + shift + hardness + luck)))
            hit = np.round(hits).astype(np.int64)
            missed = labeled - hit
            taken = missed.sum(axis=1, keepdims=True) * share[:, ::-1]  # what is missed is called something else
            seeds.append(Counts(hit, hit + np.round(taken).astype(np.int64), labeled))
        runs.append(seeds)
    return runs


def truth(skill: np.ndarray) -> np.ndarray:
    """Return the mIoU of every network over very many images and seeds."""
    runs = simulate(np.random.default_rng(12345), skill, TRUTH_SEEDS, TRUTH_IMAGES)
    return np.asarray([np.mean([counts.iou().mean() for counts in seeds]) for seeds in runs])


def study(job: tuple[int, int, int]) -> tuple[list[bool], list[bool], bool]:
    """Return for one study: intervals of scores and of differences that hold, and whether equal networks differ."""
    number, num_seeds, resamples = job
    generator = np.random.default_rng([7, number, num_seeds])
    names = [str(i) for i in range(NETWORKS)]
    runs = dict(zip(names, simulate(generator, SKILL, num_seeds, IMAGES), strict=True))
    drawn = Bootstrap(runs, resamples=resamples, seed=number)
    found = drawn.scores()
    covered = [found[name].low <= true <= found[name].high for name, true in zip(names, TRUTH, strict=True)]
    pairs = drawn.differences()
    gaps = [TRUTH[int(d.first)] - TRUTH[int(d.second)] for d in pairs]
    held = [d.estimate.low <= gap <= d.estimate.high for d, gap in zip(pairs, gaps, strict=True)]
    equal = dict(
        zip(names, simulate(generator, np.repeat(SKILL[:1], NETWORKS, axis=0), num_seeds, IMAGES), strict=True)
    )
    is_alarm = any(d.is_significant for d in Bootstrap(equal, resamples=resamples, seed=number).differences())
    return covered, held, is_alarm


SKILL = np.linspace(0.5, 2.5, CLASSES)[None] + np.array([[0.0], [0.1], [0.25]])
TRUTH = truth(SKILL)


def main() -> None:
    """Print one row for each number of seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    print(f"{NETWORKS} networks, {IMAGES} images, {CLASSES} classes; true mIoU {np.round(100 * TRUTH, 2)}")
    print("| seeds | scores covered % | differences covered % | equal networks called different % |")
    print("|---|---|---|---|")
    for num_seeds in (2, 3, 5):
        jobs = [(number, num_seeds, options.resamples) for number in range(options.studies)]
        with ProcessPoolExecutor(options.processes) as pool:
            done = list(pool.map(study, jobs, chunksize=20))
        covered, held = (np.mean([row[i] for row in done]) for i in (0, 1))
        alarms = np.mean([row[2] for row in done])
        print(f"| {num_seeds} | {100 * covered:.1f} | {100 * held:.1f} | {100 * alarms:.1f} |", flush=True)


if __name__ == "__main__":
    main()
