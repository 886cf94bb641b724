"""Every paper on a GPU: training images per second and peak memory at its published crop, test images per second.

python bench/gpu_steps.py [--papers NAME ...] [--batch 4]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch

from segcore.build import for_inference, placed
from segcore.data import dataset_classes
from segcore.evaluation.inference import View, predict_labels
from segcore.layers.precision import mixed_precision, training_precision
from segcore.layers.replay import RECORD_AFTER
from segcore.paper import Paper, load_paper
from segcore.recipe import AMP, Recipe
from segcore.segmentor import Segmentor, StepInfo
from segcore.training.batches import target_of_labels

RECIPES = {
    "cgrseg": "t-ade20k",
    "ecfd": "tiny-r50-cityscapes",
    "iiwa": "s-ade20k",
    "memorynet": "r50-ade20k",
    "unept": "r50-ade20k",
}
DEVICE = torch.device("cuda")


def seconds(call: Callable[[], object], repeats: int = 8) -> float:
    """Return the median time of a call, host and device together, after those in which a test is recorded."""
    times: list[float] = []
    for turn in range(repeats + RECORD_AFTER):
        torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        if turn >= RECORD_AFTER:
            times.append(time.perf_counter() - started)
    return median(times)


def training(
    paper: Paper, recipe: Recipe, model: Segmentor, batch: int, amp: AMP, *, tf32: bool
) -> tuple[float, float]:
    """Return images per second and the peak of memory in GiB of losses, gradients and an AdamW step."""
    height, width = recipe.augment.crop
    image = torch.randn(batch, 3, height, width, device=DEVICE).contiguous(memory_format=torch.channels_last)
    blocks = torch.randint(model.num_classes, (batch, height // 32, width // 32), device=DEVICE)
    label = blocks.repeat_interleave(32, 1).repeat_interleave(32, 2)
    target = target_of_labels(label, paper.map_source(recipe))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    model.train()

    def step() -> None:
        with training_precision(DEVICE, tf32):
            with mixed_precision(DEVICE, amp):
                loss = model.losses(image, target, StepInfo(0, 100, 1e-4)).total()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    torch.cuda.reset_peak_memory_stats()
    taken = seconds(step)
    return batch / taken, torch.cuda.max_memory_allocated() / 2**30


def testing(recipe: Recipe, model: Segmentor, amp: AMP, *, augmented: bool) -> float:
    """Return images of the crop's size per second through the recipe's test."""
    height, width = recipe.augment.crop
    protocol = recipe.evaluate.with_augmentation() if augmented else recipe.evaluate
    ratios = protocol.ratios
    sides = [(height, width) if protocol.family == "S" else (int(height * r), int(width * r)) for r in ratios]
    factors = ratios if protocol.family == "S" else [1.0] * len(ratios)
    parts = [
        View(torch.zeros((h, w, 3), dtype=torch.uint8).pin_memory(), factor)
        for (h, w), factor in zip(sides, factors, strict=True)
    ]
    network = for_inference(model.eval(), recipe.run)

    def test() -> None:
        with mixed_precision(DEVICE, amp):
            predict_labels(network, parts, protocol, (height, width))

    return 1 / seconds(test, 4)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--papers", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--batch", type=int, default=4, help="images of a step (default 4)")
    options = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, batch {options.batch}, median of 8 steps.\n")
    print("| network, crop | form | training images/s | peak GiB | test images/s | ms + flip images/s |")
    print("|---|---|---|---|---|---|")
    forms: tuple[tuple[str, AMP, bool], ...] = (
        ("float32", "off", False),
        ("TF32", "off", True),
        ("bf16", "bf16", True),
    )
    for name in options.papers:
        paper = load_paper(name)
        recipe = paper.recipes[RECIPES[name]]
        plain = replace(recipe, model=replace(recipe.model, pretrained=False))
        height, width = recipe.augment.crop
        for form, amp, tf32 in forms:
            torch.manual_seed(0)
            model = placed(paper.build(plain, len(dataset_classes(recipe.data).names)), recipe.run, DEVICE)
            rate, peak = training(paper, recipe, model, options.batch, amp, tf32=tf32)
            single, several = (testing(recipe, model, amp, augmented=augmented) for augmented in (False, True))
            cells = f"{rate:.1f} | {peak:.1f} | {single:.1f} | {several:.2f}"
            print(f"| {name} {RECIPES[name]}, {height}x{width} | {form} | {cells} |", flush=True)
            del model
            torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
