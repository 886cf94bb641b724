"""MemoryNet's multi-scale + flip evaluation of one image against the way of the original: time and extra memory.

Original (memorynet/PAPER 7): one view and one window at a time, mirrored on the host, every view's scores enlarged to
the image's size and kept until they are averaged. Each measurement is a process of its own; processor time of one
thread, so that other load on the machine does not count.

python bench/memorynet_evaluation.py [--repeats N]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from evaluation import PeakMemory, light_model  # bench/ is on the path of its own programs
from torch import Tensor, nn

from memorynet.recipes import PAPER, RECIPES
from segcore.evaluation.inference import predict_labels, views
from segcore.images.transforms import normalize, resize_bounds, resize_image, resized_size
from segcore.recipe import Evaluate

NUM_CLASSES = 150
SIZE = (512, 683)
PROTOCOLS = {
    "ADE20K, ResNet (whole)": RECIPES["r50-ade20k"].evaluate.with_augmentation(),
    "ADE20K, HRNet (windows)": RECIPES["hrnet-ade20k"].evaluate.with_augmentation(),
}
TARGET_SPEED = 2.0


def small_memorynet() -> nn.Module:
    """Return the network of the toy recipe for as many classes as ADE20K has."""
    recipe = RECIPES["toy"]
    return PAPER.build(replace(recipe, model=replace(recipe.model, pretrained=False)), NUM_CLASSES)


MODELS = {"4 convolutions": light_model, "MemoryNet, toy": small_memorynet}


def windows(model: nn.Module, image: Tensor, protocol: Evaluate) -> Tensor:
    """Return probabilities: low-resolution ones of the whole image, or the mean over windows at input size."""
    if protocol.mode == "whole":
        return model(image).softmax(dim=1)
    height, width = image.shape[-2:]
    (ch, cw), (sh, sw) = protocol.crop, protocol.stride
    total, count = image.new_zeros((1, NUM_CLASSES, height, width)), image.new_zeros((1, 1, height, width))
    for i in range(max(height - ch + sh - 1, 0) // sh + 1):
        for j in range(max(width - cw + sw - 1, 0) // sw + 1):
            bottom, right = min(i * sh + ch, height), min(j * sw + cw, width)
            top, left = max(bottom - ch, 0), max(right - cw, 0)
            crop = image[:, :, top:bottom, left:right]
            scores = F.interpolate(model(crop), size=crop.shape[-2:], mode="bilinear").softmax(dim=1)
            total += F.pad(scores, (left, width - right, top, height - bottom))
            count[:, :, top:bottom, left:right] += 1
    return total / count


def _mirrored(x: Tensor) -> Tensor:
    """Mirror through NumPy on the host, as the original does."""
    return torch.from_numpy(np.flip(x.cpu().numpy(), axis=3).copy())


@torch.inference_mode()
def plain_form(model: nn.Module, image: np.ndarray, protocol: Evaluate) -> np.ndarray:
    """Predict one image view by view; returns its label map."""
    size = (image.shape[0], image.shape[1])
    bounds = resize_bounds(protocol.scale, 1.0)
    resized = resize_image(image, resized_size(size, bounds, keep_ratio=protocol.keep_ratio, family="S"))
    pixels = normalize(torch.from_numpy(resized).permute(2, 0, 1).flip(0).contiguous()).unsqueeze(0)
    outputs = []
    for ratio in protocol.ratios:
        view = pixels if ratio == 1 else F.interpolate(pixels, scale_factor=ratio, mode="bilinear")
        for scores in (windows(model, view, protocol), _mirrored(windows(model, _mirrored(view), protocol))):
            outputs.append(F.interpolate(scores, size=size, mode="bilinear").cpu())
    return (sum(outputs[1:], outputs[0]) / len(outputs)).argmax(dim=1)[0].numpy()


def ours(model: nn.Module, image: np.ndarray, protocol: Evaluate) -> np.ndarray:
    """Predict one image with segcore; returns the same label map."""
    return predict_labels(model, views(image, protocol), protocol, (image.shape[0], image.shape[1])).numpy()


def measure(model_name: str, protocol_name: str, form: str, repeats: int) -> None:
    """Print one measurement as JSON: seconds per image (best), extra bytes, histogram of the prediction."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, protocol = MODELS[model_name]().eval(), PROTOCOLS[protocol_name]
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    function = ours if form == "ours" else plain_form
    # A small image first: libraries load and worker threads start before the memory counts.
    function(model, image[:64, :64], replace(protocol, scale=(128, 64)))
    seconds: list[float] = []

    def timed() -> np.ndarray:
        started = time.process_time()
        label = function(model, image, protocol)
        seconds.append(time.process_time() - started)
        return label

    with PeakMemory() as memory:
        label = timed()
    for _ in range(repeats):
        timed()
    counts = np.bincount(label.ravel(), minlength=NUM_CLASSES)
    print(json.dumps({"seconds": min(seconds), "extra": memory.extra, "counts": counts.tolist()}))


def main() -> int:
    """Print the table; returns 1 where the target is missed on the light model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure, options.repeats)
        return 0
    print(f"One {SIZE[0]}x{SIZE[1]} image, {NUM_CLASSES} classes, 6 scales + flip; processor time of one thread.")
    print(f"Target on the light model, where the evaluation around it shows: {TARGET_SPEED:g} x the speed.\n")
    print("| model | protocol | plain s | ours s | faster | plain MiB | ours MiB | differing pixels |")
    print("|---|---|---|---|---|---|---|---|")
    is_missed = False
    for model_name in MODELS:
        for protocol_name in PROTOCOLS:
            plain, fast = (_run(model_name, protocol_name, form, options.repeats) for form in ("plain", "ours"))
            speed = plain["seconds"] / fast["seconds"]
            changed = np.abs(np.subtract(plain["counts"], fast["counts"])).sum() // 2
            cells = [f"{plain['seconds']:.2f}", f"{fast['seconds']:.2f}", f"{speed:.2f} x"]
            cells += [f"{plain['extra'] / 2**20:.0f}", f"{fast['extra'] / 2**20:.0f}", str(changed)]
            print(f"| {model_name} | {protocol_name} | {' | '.join(cells)} |", flush=True)
            is_missed |= model_name == next(iter(MODELS)) and speed < TARGET_SPEED
    return int(is_missed)


def _run(*arguments: object) -> dict[str, float]:
    *names, repeats = (str(argument) for argument in arguments)
    command = [sys.executable, __file__, "--repeats", repeats, "--measure", *names]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    sys.exit(main())
