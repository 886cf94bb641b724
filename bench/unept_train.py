"""A training step of UN-EPT at 480x480 (forward, losses, backward) with plain forms and with ours.

Plain: deformable attention by grid_sample; losses with the shift sampled for all classes, two cross entropies over all
classes, and loops over classes and direction bins. One thread and processor time, so that other load on the machine
does not count; peak memory of each form in a process of its own. Every form must give the same losses.

python bench/unept_train.py [--repeats N] [--networks r50 deit] [--batch 1] [--window 480]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from contextlib import nullcontext
from statistics import median

import torch
from baselines.unept_plain import PlainLoss, plain_attention

from segcore.segmentor import StepInfo, Target
from unept.model import UNEPT, unept_deit, unept_r50

NETWORKS = {"r50": unept_r50, "deit": unept_deit}
FORMS = ("plain attention and losses", "plain attention", "plain losses", "ours")
STEP = StepInfo(iteration=0, total=1, lr=0.0)
TOLERANCE = 1e-4  # of each loss
NUM_CLASSES = 150
MIB = 1024


def build(name: str, window: int, form: str) -> UNEPT:
    """Return a network without dropout, so that forms can be compared, in one of the forms."""
    torch.manual_seed(0)
    model = NETWORKS[name](NUM_CLASSES, pretrained=False, window=window, dropout=0.0, backbone_norm="batch")
    if "losses" in form:
        model.loss = PlainLoss()
    return model.train().to(memory_format=torch.channels_last)


def target_of(batch: int, window: int) -> Target:
    """Return labels and boundary maps in blocks of 16 pixels, a few without a label."""
    generator = torch.Generator().manual_seed(1)
    shape = (batch, window // 16, window // 16)
    label = torch.randint(0, NUM_CLASSES + 5, shape, generator=generator)
    label[label >= NUM_CLASSES] = 255
    maps = [label, torch.randint(0, 13, shape, generator=generator), torch.randint(-90, 91, shape, generator=generator)]
    label, distance, angle = (part.repeat_interleave(16, dim=1).repeat_interleave(16, dim=2) for part in maps)
    return Target(label, distance.float(), 2.0 * angle)


def measure(name: str, window: int, batch: int, form: str, repeats: int) -> dict[str, float]:
    """Return the median seconds of a step, the peak memory, and the losses of the first step."""
    torch.set_num_threads(1)
    model, target = build(name, window, form), target_of(batch, window)
    image = torch.randn(batch, 3, window, window, generator=torch.Generator().manual_seed(0))
    image = image.contiguous(memory_format=torch.channels_last)
    times: list[float] = []
    losses: dict[str, float] = {}
    with plain_attention() if "attention" in form else nullcontext():
        for turn in range(repeats + 1):
            started = time.process_time()
            found = model.losses(image, target, STEP)
            found.total().backward()
            times.append(time.process_time() - started)
            if turn == 0:
                losses = {key: float(value.detach()) for key, value in found.terms.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB
    return {"seconds": median(times[1:]), "peak": peak, **losses}


def measured_apart(name: str, options: argparse.Namespace, form: str) -> dict[str, float]:
    """Return what `measure` finds in a process of its own."""
    words = ["--networks", name, "--form", form, "--repeats", str(options.repeats)]
    words += ["--window", str(options.window), "--batch", str(options.batch)]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}, {form}: {done.stderr}")
    return json.loads(done.stdout)


def check(result: dict[str, float], expected: dict[str, float], form: str) -> None:
    """Stop where a form's losses are not those of the plain form."""
    for key in expected.keys() - {"seconds", "peak"}:
        error = abs(result[key] - expected[key]) / abs(expected[key])
        assert error < TOLERANCE, f"{form}: {key} is off by {error:.2e}"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2, help="timed steps of each form, after one to warm up")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="which to measure")
    parser.add_argument("--batch", type=int, default=1, help="images; the published training has 2 per process")
    parser.add_argument("--window", type=int, default=480, help="side of the crop, pixels")
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.form:
        print(json.dumps(measure(options.networks[0], options.window, options.batch, options.form, options.repeats)))
        return 0
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    print(
        f"UN-EPT, training step, {options.batch}x3x{options.window}x{options.window}, {NUM_CLASSES} classes, float32,"
    )
    print(f"1 of {os.cpu_count()} CPU cores, {versions}. Median processor time of {options.repeats} steps.\n")
    print("| network | form | s | faster | peak memory, MiB |\n|---|---|---|---|---|")
    for name in options.networks:
        plain: dict[str, float] | None = None
        for form in FORMS:
            result = measured_apart(name, options, form)
            plain = plain or result
            check(result, plain, form)
            faster = plain["seconds"] / result["seconds"]
            print(f"| {name} | {form} | {result['seconds']:.2f} | {faster:.2f} | {result['peak']:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
