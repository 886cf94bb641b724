"""The memory update against its plain definition: time, memory beyond the start, and the difference of the results;
below it, what that makes of a whole training step (forward and backward) of MemoryNet R-50.

Plain: the features resized to the label's size, then one class after the other. Each measurement is a process of its
own; processor time of one thread, so that other load on the machine does not count.

python bench/memorynet_update.py [--repeats N]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from evaluation import PeakMemory  # bench/ is on the path of its own programs
from torch import Tensor

from memorynet import memory as memory_module
from memorynet.memory import update_memory
from memorynet.model import MemoryNet
from memorynet.recipes import R50
from segcore.recipe import Loss
from segcore.segmentor import StepInfo, Target

# bench/baselines is not a package: the programs of bench/ are run one by one
sys.path.insert(0, str(Path(__file__).parent / "baselines"))
from memory_update import plain_update_memory  # pyright: ignore[reportMissingImports]

CHANNELS, STRIDE, MOMENTUM = 512, 8, 0.9
STEP, STEP_SIZE = "step", (256, 512)
TARGET_SPEED, TARGET_MEMORY = 15, 1 / 10
LABEL_BLOCK = 32
"""Side of the squares of one class, pixels."""


class Case(NamedTuple):
    """Sizes of one update; those with a target are the papers' one-slot ones."""

    batch: int
    size: tuple[int, int]
    num_classes: int
    slots: int = 1


CASES = {
    "Cityscapes": Case(2, (512, 1024), 19),
    "ADE20K": Case(2, (512, 512), 150),
    "LIP (odd size)": Case(4, (473, 473), 20),
    "ADE20K, 3 slots": Case(2, (512, 512), 150, slots=3),
}
WITH_TARGET = ("Cityscapes", "ADE20K")


def make_inputs(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Return memory, features as after a ReLU, and a label in blocks of which a twentieth is ignored."""
    generator = torch.Generator().manual_seed(0)
    height, width = case.size
    memory = torch.randn(case.num_classes, case.slots, CHANNELS, generator=generator)
    cells = (-(-height // STRIDE), -(-width // STRIDE))
    features = torch.randn(case.batch, CHANNELS, *cells, generator=generator).relu_()
    blocks = (-(-height // LABEL_BLOCK), -(-width // LABEL_BLOCK))
    label = torch.randint(0, case.num_classes, (case.batch, *blocks), generator=generator)
    label[torch.rand(label.shape, generator=generator) < 0.05] = 255
    for axis in (1, 2):
        label = label.repeat_interleave(LABEL_BLOCK, dim=axis)
    return memory, features, label[:, :height, :width].contiguous()


def measure(name: str, form: str, repeats: int) -> None:
    """Print one measurement as JSON: seconds (best), extra bytes; the plain form also the largest difference."""
    torch.set_num_threads(1)
    update = update_memory if form == "ours" else plain_update_memory
    case = CASES[name]
    small = make_inputs(case._replace(size=(64, 64)))
    update(*small, MOMENTUM)  # libraries load and threads start before the memory counts
    inputs = make_inputs(case)
    seconds: list[float] = []

    def timed() -> Tensor:
        started = time.process_time()
        result = update(*inputs, MOMENTUM)
        seconds.append(time.process_time() - started)
        return result

    with PeakMemory() as memory:
        result = timed()
    for _ in range(repeats):
        timed()
    measured = {"seconds": min(seconds), "extra": memory.extra}
    if form == "plain":
        measured["difference"] = float((update_memory(*inputs, MOMENTUM) - result).abs().max() / result.std())
    print(json.dumps(measured))


def measure_step(form: str, repeats: int) -> None:
    """Print the seconds (best) and the extra bytes of a training step of MemoryNet R-50 on Cityscapes' classes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if form == "plain":
        memory_module.update_memory = lambda *inputs, strategy, reduce: plain_update_memory(*inputs, strategy=strategy)
    options = replace(R50, pretrained=False, backbone_norm="batch", momentum_lr=0.0)
    model = MemoryNet(options, 19, Loss(average="valid")).train()
    seconds: list[float] = []

    def timed(size: tuple[int, int]) -> None:
        image, label = torch.randn(2, 3, *size), torch.randint(0, 19, (2, *size))
        started = time.process_time()
        model.losses(image, Target(label), StepInfo(0, 1, 0.01)).total().backward()
        seconds.append(time.process_time() - started)

    timed((64, 64))
    seconds.clear()
    with PeakMemory() as memory:
        timed(STEP_SIZE)
    for _ in range(repeats - 1):
        timed(STEP_SIZE)
    print(json.dumps({"seconds": min(seconds), "extra": memory.extra}))


def main() -> int:
    """Print the table; returns 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure and options.measure[0] == STEP:
        measure_step(options.measure[1], options.repeats)
        return 0
    if options.measure:
        name, form = options.measure
        measure(name, form, options.repeats)
        return 0
    print(f"Features of {CHANNELS} channels at stride {STRIDE}, float32; processor time of one thread, best of runs.")
    print(f"Targets for {' and '.join(WITH_TARGET)}: {TARGET_SPEED} x the speed, {TARGET_MEMORY:.2f} of the memory.")
    print("Difference: the largest, in standard deviations of the memory.\n")
    print(
        "| case | batch | size | classes | slots | plain ms | ours ms | faster | plain MiB | ours MiB | share | diff. |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    is_missed = False
    for name, case in CASES.items():
        plain, ours = (_run(name, form, options.repeats) for form in ("plain", "ours"))
        speed, share = plain["seconds"] / ours["seconds"], ours["extra"] / plain["extra"]
        cells = [name, str(case.batch), "x".join(map(str, case.size)), str(case.num_classes), str(case.slots)]
        cells += [f"{1e3 * plain['seconds']:.0f}", f"{1e3 * ours['seconds']:.0f}", f"{speed:.0f} x"]
        cells += [f"{plain['extra'] / 2**20:.0f}", f"{ours['extra'] / 2**20:.0f}", f"{share:.3f}"]
        print(f"| {' | '.join(cells)} | {plain['difference']:.0e} |", flush=True)
        is_missed |= name in WITH_TARGET and (speed < TARGET_SPEED or share > TARGET_MEMORY)
    plain, ours = (_run(STEP, form, min(options.repeats, 2)) for form in ("plain", "ours"))
    print(f"\nTraining step of MemoryNet R-50, 2 images of {'x'.join(map(str, STEP_SIZE))}, 19 classes:\n")
    print("| update | s | faster | MiB |")
    print("|---|---|---|---|")
    for form, measured in (("plain", plain), ("ours", ours)):
        speed = plain["seconds"] / measured["seconds"]
        print(f"| {form} | {measured['seconds']:.1f} | {speed:.2f} x | {measured['extra'] / 2**20:.0f} |")
    return int(is_missed)


def _run(*arguments: object) -> dict[str, float]:
    *names, repeats = (str(argument) for argument in arguments)
    command = [sys.executable, __file__, "--repeats", repeats, "--measure", *names]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    sys.exit(main())
