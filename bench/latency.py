"""Inference latency of CGRSeg-T at 512x512 against its plain eager form: norm folding, channels_last, torch.compile.

One thread and processor time, so that other load on the machine does not count; the forms take turns, and the median of
their times is shown. Every form must give the plain form's logits.

python bench/latency.py [--repeats N] [--size 512] [--no-compile]
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from copy import deepcopy
from dataclasses import dataclass, replace
from statistics import median

import timm
import torch
from torch import Tensor, nn

from segcore.layers.fuse import fuse_norms
from segcore.paper import load_paper

NUM_CLASSES = 150
TARGET = 1.2
TOLERANCE = 1e-3  # of the logits' standard deviation


@dataclass
class Form:
    """One way to run the same network."""

    name: str
    model: nn.Module
    memory_format: torch.memory_format = torch.contiguous_format
    seconds: tuple[float, ...] = ()

    def run(self, image: Tensor) -> Tensor:
        """Return the logits, and note the processor time they took."""
        image = image.contiguous(memory_format=self.memory_format)
        started = time.process_time()
        logits = self.model(image)
        self.seconds = (*self.seconds, time.process_time() - started)
        return logits


def build() -> nn.Module:
    """Return CGRSeg-T with random weights and norm statistics that folding has to respect."""
    torch.manual_seed(0)
    paper = load_paper("cgrseg")
    recipe = paper.recipes["t-ade20k"]
    model = paper.build(replace(recipe, model=replace(recipe.model, pretrained=False)), NUM_CLASSES).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            nn.init.normal_(parameter, std=0.1)  # as after training: residual branches must show in the logits
    return model


def forms(model: nn.Module, is_compiled: bool) -> list[Form]:
    """Return the plain form first, then each step by itself, then all together."""
    folded = fuse_norms(model)
    last = torch.channels_last
    result = [
        Form("plain eager", model),
        Form("channels_last", in_format(model, last), last),
        Form("norms folded", folded),
        Form("norms folded + channels_last", in_format(folded, last), last),
    ]
    if is_compiled:
        compiled = torch.compile(in_format(folded, last), fullgraph=True)
        result.append(Form("norms folded + channels_last + torch.compile", compiled, last))
    return result


def in_format(model: nn.Module, memory_format: torch.memory_format) -> nn.Module:
    """Return a copy of a network whose weights lie in a memory format."""
    return deepcopy(model).to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]


def main() -> int:
    """Print the table; returns 1 where the best form misses the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="timed runs of every form")
    parser.add_argument("--size", type=int, default=512, help="side of the image, pixels")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="include torch.compile")
    options = parser.parse_args()
    torch.set_num_threads(1)
    image = torch.randn(1, 3, options.size, options.size, generator=torch.Generator().manual_seed(0))
    candidates = forms(build(), options.compile)
    with torch.inference_mode():
        expected = candidates[0].run(image)
        for form in candidates:
            difference = float((form.run(image) - expected).abs().max() / expected.std())
            assert difference < TOLERANCE, f"{form.name} differs from the plain form by {difference:.2e}"
            form.run(image)
            form.seconds = ()
        for _ in range(options.repeats):
            for form in candidates:
                form.run(image)
    plain = median(candidates[0].seconds)
    versions = f"torch {torch.__version__}, timm {timm.__version__}, Python {platform.python_version()}"
    print(f"CGRSeg-T, 1x3x{options.size}x{options.size}, float32, 1 of {os.cpu_count()} CPU cores, {versions}.")
    print(f"Median processor time of {options.repeats} runs. Target: {TARGET} x in the best form.\n")
    print("| form | ms | faster |\n|---|---|---|")
    for form in candidates:
        print(f"| {form.name} | {1e3 * median(form.seconds):.1f} | {plain / median(form.seconds):.2f} |")
    return 0 if max(plain / median(form.seconds) for form in candidates) >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
