"""The comparison with published code refuses what does not agree, and its ratios are those it says.

No published code is here: a stand-in has the published names and layouts, computed by a network of ours.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcore.paper import load_paper
from segcore.segmentor import Segmentor, StepInfo, Target

BENCH = Path(__file__).parents[2] / "bench"
RECIPE = "toy"
CLASSES = 5
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.fixture
def against(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the script, whose folder's files import each other by their names."""
    monkeypatch.syspath_prepend(BENCH)
    monkeypatch.setitem(import_module("references").NUM_CLASSES, RECIPE, CLASSES)
    script = import_module("against")
    monkeypatch.setattr(script, "CROP", 64)
    monkeypatch.setattr(script, "PICTURE", (96, 128))
    return script


class FakeRepository(nn.Module):
    """A network of CGRSeg with the published tensor names, as a checkout would build it."""

    def __init__(self) -> None:
        super().__init__()
        paper = load_paper("cgrseg")
        self.inner: Segmentor = paper.build(paper.recipes[RECIPE], CLASSES)
        self.names = paper.name_map(self.inner)

    def state_dict(self, *_: object, **__: object) -> dict[str, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.names.export(self.inner)

    def forward(self, image: Tensor) -> Tensor:
        return self.inner.logits(image)

    def aug_test(self, picture: np.ndarray) -> np.ndarray:
        """Six scales and their mirrored images, written down without anything of ours."""
        height, width = picture.shape[:2]
        total = torch.zeros(CLASSES, height, width)
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
        for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75):
            factor = min(ratio * 256 / max(height, width), ratio * 192 / min(height, width))
            size = (int(width * factor + 0.5), int(height * factor + 0.5))
            pixels = torch.from_numpy(cv2.resize(picture, size)[..., ::-1].copy()).permute(2, 0, 1)
            image = ((pixels - mean) / deviation)[None]
            for shown, back in ((image, lambda x: x), (image.flip(-1), lambda x: x.flip(-1))):
                logits = F.interpolate(back(self(shown)), (height, width), mode="bilinear", align_corners=False)
                total += logits[0].softmax(dim=0)
        return total.argmax(dim=0).numpy()

    def loss(self, image: Tensor, target: Target) -> Tensor:
        return self.inner.losses(image, target, StepInfo(0, 1, 0.1)).total()


@pytest.fixture
def pair(against: Any) -> Any:
    """Return the stand-in and ours with its weights."""
    torch.manual_seed(0)
    network = FakeRepository()
    test = network.aug_test
    published = against.Published(network=network, forward=network, loss=network.loss, aug_test=test)
    return against.pair_of(load_paper("cgrseg"), RECIPE, published, against.ProcessMeter())


def test_a_network_with_the_published_weights_agrees(against: Any, pair: Any) -> None:
    weights = pair.published.network.inner.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in pair.ours.state_dict().items())
    assert against.measure_forward(pair, 64, pairs=1).difference < against.OUTPUT_TOLERANCE
    assert against.measure_step(pair, 2, 64, pairs=1).difference < against.LOSS_TOLERANCE
    assert against.measure_test(pair, pairs=1).difference < against.DIFFERING_PIXELS


def test_a_network_that_computes_something_else_is_refused(against: Any, pair: Any) -> None:
    with torch.no_grad():
        pair.ours.head.classifier.weight[0] += 0.1
    with pytest.raises(against.DifferentError, match="differ by"):
        against.measure_forward(pair, 64, pairs=1)
    with pytest.raises(against.DifferentError, match="differ by"):
        against.measure_step(pair, 2, 64, pairs=1)
    with pytest.raises(against.DifferentError, match="differ by"):
        against.measure_test(pair, pairs=1)


@dataclass
class Clock:
    """Processor time that only work takes."""

    now: float = 0.0

    def work(self, seconds: Iterator[float], result: list[Tensor]) -> list[Tensor]:
        self.now += next(seconds)
        return result


def test_the_ratio_is_the_median_of_the_ratios_of_pairs(against: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, result = Clock(), [torch.arange(4.0)]
    monkeypatch.setattr(time, "process_time", lambda: clock.now)
    # the first call of each checks, one goes before each that counts, the last is for memory; ratios are 2, 1 and 3
    theirs = iter((100.0, 100.0, 2.0, 100.0, 5.0, 100.0, 30.0, 100.0))
    ours = iter((100.0, 100.0, 1.0, 100.0, 5.0, 100.0, 10.0, 100.0))
    measured = against.measure(
        lambda: clock.work(theirs, result), lambda: clock.work(ours, result), 3, 0.0, against.ProcessMeter()
    )
    assert measured.published.seconds == (2.0, 5.0, 30.0)
    assert measured.ours.seconds == (1.0, 5.0, 10.0)
    assert measured.faster == 2.0


@pytest.mark.parametrize("ours", [[torch.tensor([1.0, 2.0, float("nan")])], [torch.zeros(4)], []])
def test_other_shapes_and_what_is_no_number_are_refused(against: Any, ours: list[Tensor]) -> None:
    with pytest.raises(against.DifferentError):
        against.measure(lambda: [torch.arange(3.0)], lambda: ours, 1, 1e-4, against.ProcessMeter())


FAULTS = """
import resource, sys
sys.path.insert(0, {folder!r})
import torch
from references import meters
def faults():
    started = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - started
meters.keep_freed_memory()
for is_kept in (False, True, False):
    meters.manage_memory(is_kept=is_kept)
    print(min(faults() for _ in range(6)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_used_again_in_ours_alone() -> None:
    code = FAULTS.format(folder=str(BENCH))
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    theirs, ours, again = map(int, output.split())
    assert theirs > 10_000 > 100 > ours
    assert again > 10_000


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_the_peak_of_the_call(against: Any) -> None:
    mebibyte = 2**18  # float32 values
    meter = against.ProcessMeter()
    meter.peak(lambda: torch.ones(mebibyte), is_ours=False)
    assert meter.peak(lambda: torch.ones(64 * mebibyte), is_ours=False) == pytest.approx(64, abs=4)
