"""Memory and descriptors of long work: 20,000 test images, 2,000 training steps, 5,000 predictions of varied size.

python bench/endurance.py [--share 0.1]   a tenth of each
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
import tempfile
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch
from memory_growth import NUM_CLASSES, NoiseImages, resident_mib
from torch import Tensor

from segcore.commands import predict
from segcore.data.base import Sample
from segcore.evaluation.evaluate import evaluate
from segcore.predictor import Predictor
from segcore.recipe import Evaluate
from segcore.training import loop
from segcore.training.trainer import Trainer

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.tiny_paper import PAPER

TARGET_MIB = 20
"""Growth that is allowed after the warm-up."""
WARM_UP = 0.05
"""Share of the work after which memory is what it should stay."""
MARKS = 5


class Watch:
    """Memory and open files of this process as work goes on."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        start = round(WARM_UP * total)
        self.marks = {start + (total - start) * part // (MARKS - 1) for part in range(MARKS)}
        self.seen: list[tuple[int, float, int]] = []

    def step(self) -> None:
        """Count one piece of work."""
        self.done += 1
        if self.done in self.marks:
            gc.collect()
            self.seen.append((self.done, resident_mib(), len(os.listdir("/proc/self/fd"))))

    def report(self, what: str) -> bool:
        """Print what was seen; returns whether the target is met."""
        growth, descriptors = (self.seen[-1][i] - self.seen[0][i] for i in (1, 2))
        for done, memory, files in self.seen:
            print(f"| {what} | {done} | {memory:.1f} | {files} |")
        print(f"| {what}, growth | | {growth:+.1f} | {descriptors:+d} |", flush=True)
        return growth < TARGET_MIB and descriptors <= 0


def test_images(count: int) -> bool:
    """Evaluate through loader processes, single scale."""
    watch = Watch(count)
    model = torch.nn.Conv2d(3, NUM_CLASSES, 3, 8, 1)

    def seen(index: int, sample: Sample, prediction: Tensor) -> None:
        watch.step()

    protocol = Evaluate(scale=(96, 64))
    evaluate(model, NoiseImages(count), protocol, device=torch.device("cpu"), workers=2, on_prediction=seen)
    return watch.report("test images")


def training_steps(count: int, folder: Path) -> bool:
    """Train with loader processes, validating and saving four times."""
    watch = Watch(count)
    base = PAPER.recipes["toy"]
    settings = {"work_dir": str(folder / "run"), "device": "cpu", "log_interval": 10}
    recipe = replace(
        base,
        data=replace(base.data, workers=2, num_images=(32, 4)),
        schedule=replace(base.schedule, iterations=count),
        run=replace(base.run, **settings, eval_interval=count // 4, save_interval=count // 20),
    )
    step = Trainer.step

    def counted(self: Trainer, parts: list[Any]) -> dict[str, Tensor]:
        terms = step(self, parts)
        watch.step()
        return terms

    with patch.object(Trainer, "step", counted):
        loop.train(PAPER, "toy", recipe)
    return watch.report("training steps")


def predictions(count: int, folder: Path) -> bool:
    """Predict a folder of images of varied size with label maps and overlays."""
    watch = Watch(count)
    images = folder / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for number in range(200):
        size = (int(rng.integers(8, 128)), int(rng.integers(8, 128)))
        cv2.imwrite(str(images / f"{number}.jpg"), rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    predictor = Predictor.from_checkpoint(
        folder / "run" / "last.safetensors", paper=PAPER, recipe=PAPER.recipes["toy"], device="cpu"
    )
    options = predict.PredictOptions(checkpoint="", inputs=(str(images),), out=str(folder / "out"))
    work = predict.plan(options)
    predict_image = predict._predict_image  # pyright: ignore[reportPrivateUsage] - what a run does once an image

    def counted(*words: Any) -> list[Path]:
        files = predict_image(*words)
        watch.step()
        return files

    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), patch.object(predict, "_predict_image", counted):
        for _ in range(-(-count // len(work.jobs))):
            predict.run(predictor, work)
    return watch.report("predictions")


def main() -> int:
    """Print the table; returns 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0)
    share = parser.parse_args().share
    logging.disable(logging.CRITICAL)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    counts = [round(share * count) for count in (20_000, 2_000, 5_000)]
    print(f"Load of the machine at the start: {os.getloadavg()[0]:.1f}. Tiny images, tiny network, CPU.")
    print(f"Target: less than {TARGET_MIB} MiB and no descriptor gained after {WARM_UP:.0%} of each.\n")
    print("| what | done | resident MiB | open files |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        met = [test_images(counts[0]), training_steps(counts[1], folder), predictions(counts[2], folder)]
    return int(not all(met))


if __name__ == "__main__":
    sys.exit(main())
