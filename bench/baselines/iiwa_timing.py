"""What bench/iiwa_inference.py and bench/iiwa_train.py share: networks in three forms, their inputs, and the table.

One thread and processor time, so that other load on the machine does not count; the forms take turns, and the median of
their times is shown.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch
from baselines.iiwa_blocks import straightforward, with_plain_linear
from torch import Tensor, nn

from iiwa.model import IIWA
from iiwa.recipes import RECIPES, IIWAModel

TARGET = 1.3
TOLERANCE = 1e-3  # of the output's standard deviation
_CLASSES = {"ade20k": 150, "cityscapes": 19, "pascal_context_59": 59}


@dataclass(frozen=True)
class Case:
    """One network at one crop.

    Attributes:
        recipe: released configuration; its crop is taken unless `size` says otherwise.
        part: the whole network, or neck and decoder on given feature maps.
    """

    recipe: str
    part: str
    batch: int = 1
    size: tuple[int, int] = (0, 0)

    def crop(self) -> tuple[int, int]:
        return self.size if min(self.size) > 0 else RECIPES[self.recipe].augment.crop

    def title(self) -> str:
        height, width = self.crop()
        return f"{self.recipe}, {self.part}, {self.batch}x{height}x{width}"

    def build(self) -> tuple[nn.Module, Tensor | list[Tensor]]:
        """Return the part, without random depth and dropout so that forms can be compared, and its input."""
        torch.manual_seed(0)
        recipe = RECIPES[self.recipe]
        assert isinstance(recipe.model, IIWAModel)
        still = {"backbone_drop_path": 0.0, "decoder_drop_path": 0.0, "fusion_dropout": 0.0, "decoder_dropout": 0.0}
        model = IIWA(replace(recipe.model, pretrained=False, **still), _CLASSES[recipe.data.dataset])
        height, width = self.crop()
        if self.part == "whole":
            return model, torch.randn(self.batch, 3, height, width).contiguous(memory_format=torch.channels_last)
        shapes = [
            (self.batch, channels, height // stride, width // stride)
            for channels, stride in zip(model.backbone.channels, model.backbone.strides, strict=True)  # pyright: ignore
        ]
        return model.head, [torch.randn(shape).contiguous(memory_format=torch.channels_last) for shape in shapes]


Step = Callable[[nn.Module, Tensor | list[Tensor]], Tensor]


def measure(case: Case, step: Step, repeats: int, *, is_training: bool) -> tuple[float, float, float]:
    """Return the seconds of one step: straightforward form, our blocks on torch's linear layers, ours.

    Every form must give the same output as the straightforward one.
    """
    model, given = case.build()
    model.train(is_training)
    forms = [straightforward(model), with_plain_linear(model), model]
    expected = step(forms[0], given)
    for form in forms[1:]:
        difference = float((step(form, given) - expected).abs().max() / expected.std())
        assert difference < TOLERANCE, f"{case.title()} differs from the straightforward form by {difference:.2e}"
    seconds: list[list[float]] = [[] for _ in forms]
    for _ in range(repeats):
        for form, times in zip(forms, seconds, strict=True):
            started = time.process_time()
            step(form, given)
            times.append(time.process_time() - started)
    plain, blocks, ours = (median(times) for times in seconds)
    return plain, blocks, ours


def report(cases: Sequence[Case], step: Step, repeats: int, *, is_training: bool) -> int:
    """Print the table; returns 1 where ours misses the target."""
    torch.set_num_threads(1)
    print(
        f"float32, 1 of {os.cpu_count()} CPU cores, torch {torch.__version__}, Python {platform.python_version()}. "
        f"Median processor time of {repeats} steps. Target: {TARGET} x. Blocks alone: our blocks, torch's own linear "
        "layers; nearly all multiply-adds are in these, and ours go through oneDNN.\n"
    )
    print("| network, part, input | straightforward, ms | blocks alone, times faster | ours, ms | times faster |")
    print("|---|---|---|---|---|")
    slowest = float("inf")
    for case in cases:
        plain, blocks, ours = measure(case, step, repeats, is_training=is_training)
        slowest = min(slowest, plain / ours)
        row = (f"{1e3 * plain:.0f}", f"{plain / blocks:.2f}", f"{1e3 * ours:.0f}", f"{plain / ours:.2f}")
        print(f"| {case.title()} | {' | '.join(row)} |", flush=True)
    return 0 if slowest >= TARGET else 1
