"""Multi-scale + flip evaluation of one image against the plain form: time, and memory beyond the start.

Plain: one view and one window at a time, every view's scores enlarged twice and normalized at full size, and
CPU histograms of the prediction and the label for the metric. Each measurement is a process of its own; processor time
of one thread, so that other load on the machine does not count.

python bench/evaluation.py [--repeats N]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcore.evaluation.inference import predict_labels, views
from segcore.evaluation.metrics import ConfusionMatrix
from segcore.images.transforms import normalize, resize_bounds, resize_image, resized_size
from segcore.recipe import MS_RATIOS, Evaluate

NUM_CLASSES = 150
SIZE = (512, 683)
PROTOCOLS = {
    "whole": Evaluate(ratios=MS_RATIOS, flip=True),
    "slide 512/341": Evaluate(mode="slide", ratios=MS_RATIOS, flip=True),
}
TARGET_SPEED, TARGET_MEMORY = 1.3, 1 / 3


def light_model() -> nn.Module:
    """Return four convolutions, stride 8: cheap enough that the evaluation around it shows."""
    layers: list[nn.Module] = []
    for narrow, wide in ((3, 24), (24, 48), (48, 96)):
        layers += [nn.Conv2d(narrow, wide, 3, 2, 1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(96, NUM_CLASSES, 1))


def cgrseg_model() -> nn.Module:
    """Return CGRSeg-T with random weights."""
    from dataclasses import replace

    from segcore.paper import load_paper

    paper = load_paper("cgrseg")
    recipe = paper.recipes["t-ade20k"]
    return paper.build(replace(recipe, model=replace(recipe.model, pretrained=False)), NUM_CLASSES)


MODELS: dict[str, Callable[[], nn.Module]] = {"4 convolutions": light_model}
if find_spec("cgrseg"):
    MODELS["CGRSeg-T"] = cgrseg_model


def windows(model: nn.Module, image: Tensor, protocol: Evaluate) -> Tensor:
    """Return the logits at input size, one window at a time, as docs/protocol 3.2 writes it."""
    height, width = image.shape[-2:]
    if protocol.mode == "whole":
        return F.interpolate(model(image), size=(height, width), mode="bilinear")
    (ch, cw), (sh, sw) = protocol.crop, protocol.stride
    total, count = image.new_zeros((1, NUM_CLASSES, height, width)), image.new_zeros((1, 1, height, width))
    for i in range(max(height - ch + sh - 1, 0) // sh + 1):
        for j in range(max(width - cw + sw - 1, 0) // sw + 1):
            bottom, right = min(i * sh + ch, height), min(j * sw + cw, width)
            top, left = max(bottom - ch, 0), max(right - cw, 0)
            crop = image[:, :, top:bottom, left:right]
            logits = F.interpolate(model(crop), size=crop.shape[-2:], mode="bilinear")
            total += F.pad(logits, (left, width - right, top, height - bottom))
            count[:, :, top:bottom, left:right] += 1
    return total / count


@torch.inference_mode()
def plain_form(model: nn.Module, image: np.ndarray, label: np.ndarray, protocol: Evaluate) -> np.ndarray:
    """Evaluate one image view by view; returns the areas of intersection, prediction and label."""
    size, total = (image.shape[0], image.shape[1]), None
    for ratio in protocol.ratios:
        resized = resize_image(image, resized_size(size, resize_bounds(protocol.scale, ratio)))
        for is_mirrored in (False, True):
            seen = torch.from_numpy(cv2.flip(resized, 1) if is_mirrored else resized)
            pixels = normalize(seen.permute(2, 0, 1).flip(0).contiguous()).unsqueeze(0)
            logits = F.interpolate(windows(model, pixels, protocol), size=size, mode="bilinear")
            scores = logits.softmax(dim=1)
            scores = scores.flip(-1) if is_mirrored else scores
            total = scores if total is None else total + scores
    assert total is not None
    prediction = (total / (2 * len(protocol.ratios))).argmax(dim=1)[0].numpy()
    is_labeled = label != 255
    prediction, label = prediction[is_labeled], label[is_labeled]
    bins = np.arange(NUM_CLASSES + 1)
    return np.stack([np.histogram(part, bins)[0] for part in (prediction[prediction == label], prediction, label)])


def ours(model: nn.Module, image: np.ndarray, label: np.ndarray, protocol: Evaluate) -> np.ndarray:
    """Evaluate one image with segcore; returns the same areas."""
    matrix = ConfusionMatrix(NUM_CLASSES)
    prediction = predict_labels(model, views(image, protocol), protocol, (image.shape[0], image.shape[1]))
    matrix.update(prediction, torch.from_numpy(label))
    scores = matrix.scores()
    return np.stack([scores.intersection, scores.predicted, scores.labeled])


def resident() -> int:
    """Return the memory of this process that is in RAM, bytes (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class PeakMemory:
    """Samples the resident memory every millisecond inside a block; `extra` is its maximum beyond the start."""

    def __enter__(self) -> PeakMemory:
        self.start = self.peak = resident()
        self.is_done = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.is_done.wait(0.001):
            self.peak = max(self.peak, resident())

    def __exit__(self, *_: object) -> None:
        self.is_done.set()
        self.thread.join()

    @property
    def extra(self) -> int:
        return self.peak - self.start


def measure(model_name: str, protocol_name: str, form: str, repeats: int) -> None:
    """Print one measurement as JSON: seconds per image (best), extra bytes, checksum of the areas."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, protocol = MODELS[model_name]().eval(), PROTOCOLS[protocol_name]
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    label = rng.integers(0, NUM_CLASSES, SIZE, dtype=np.uint8)
    function = ours if form == "ours" else plain_form
    # A small image first: libraries load and worker threads start before the memory counts.
    function(model, image[:64, :64], label[:64, :64], Evaluate(scale=(128, 64), ratios=(1.0, 1.5), flip=True))
    seconds: list[float] = []

    def timed() -> np.ndarray:
        started = time.process_time()
        areas = function(model, image, label, protocol)
        seconds.append(time.process_time() - started)
        return areas

    with PeakMemory() as memory:
        areas = timed()
    for _ in range(repeats):
        timed()
    print(json.dumps({"seconds": min(seconds), "extra": memory.extra, "areas": areas.tolist()}))


def main() -> int:
    """Print the table; returns 1 where a target is missed on the light model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure, options.repeats)
        return 0
    print(f"One {SIZE[0]}x{SIZE[1]} image, {NUM_CLASSES} classes, 6 scales + flip; processor time of one thread.")
    print(f"Targets on the light model: {TARGET_SPEED} x the speed, {TARGET_MEMORY:.2f} of the extra memory.\n")
    print("| model | mode | plain s | ours s | faster | plain MiB | ours MiB | share | differing pixels |")
    print("|---|---|---|---|---|---|---|---|---|")
    is_missed = False
    for model_name in MODELS:
        for protocol_name in PROTOCOLS:
            plain, fast = (_run(model_name, protocol_name, form, options.repeats) for form in ("plain", "ours"))
            speed, share = plain["seconds"] / fast["seconds"], fast["extra"] / plain["extra"]
            changed = np.abs(np.subtract(plain["areas"], fast["areas"]))[1].sum() // 2
            cells = [f"{plain['seconds']:.2f}", f"{fast['seconds']:.2f}", f"{speed:.2f} x"]
            cells += [f"{plain['extra'] / 2**20:.0f}", f"{fast['extra'] / 2**20:.0f}", f"{share:.2f}", str(changed)]
            print(f"| {model_name} | {protocol_name} | {' | '.join(cells)} |", flush=True)
            is_light = model_name == next(iter(MODELS))
            is_missed |= is_light and (speed < TARGET_SPEED or share > TARGET_MEMORY)
    return int(is_missed)


def _run(*arguments: object) -> dict[str, float]:
    *names, repeats = (str(argument) for argument in arguments)
    command = [sys.executable, __file__, "--repeats", repeats, "--measure", *names]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    sys.exit(main())
