"""ECFD's decode head at the papers' shapes against its straightforward form: forward pass and training step.

Processor time of one thread, so that other load does not count; the forms take turns, and the median of their times is
shown. Maps and weights are in channels_last, as training and tests keep them. Every form must give the plain form's
logits and gradients. Exits with 1 where the target is missed.

python bench/ecfd_head.py [--repeats N] [--shapes tiny-512x1024 ...]
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from ecfd.model import ECFDHead
from ecfd.recipes import SMALL, TINY, ECFDModel
from segcore.layers.fuse import fuse_norms
from segcore.losses import cross_entropy
from segcore.segmentor import resize

# bench/baselines is not a package: the programs of bench/ are run one by one
sys.path.insert(0, str(Path(__file__).parent / "baselines"))
from plain_ecfd import PlainHead  # pyright: ignore[reportMissingImports]

TARGET = 1.3
TOLERANCE = 1e-3  # of the logits' standard deviation
GRADIENT_TOLERANCE = 1e-2  # of the norm of all gradients: batch norm and ReLU amplify rounding
_RESNET = (256, 512, 1024, 2048)
_STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class Shape:
    """One published setting: size of the head, image and classes."""

    model: ECFDModel
    image: tuple[int, int]
    num_classes: int

    def features(self) -> list[Tensor]:
        """Draw what ResNet-50 gives for one image."""
        generator = torch.Generator().manual_seed(0)
        sizes = [tuple(side // stride for side in self.image) for stride in _STRIDES]
        maps = [torch.randn(1, c, *size, generator=generator) for c, size in zip(_RESNET, sizes, strict=True)]
        return [x.contiguous(memory_format=torch.channels_last) for x in maps]

    def head(self) -> ECFDHead:
        """Build the head with weights as after training: every branch shows in the logits."""
        torch.manual_seed(0)
        head = ECFDHead(_RESNET, self.num_classes, self.model)
        for name, parameter in head.named_parameters():
            if name.endswith(("cicm.gamma", "sampling_offsets.weight", "attention_weights.weight", "embedding")):
                nn.init.normal_(parameter, std=0.02)
        for module in head.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_var is not None
                module.running_var.uniform_(0.5, 1.5)
        return head.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


SHAPES = {
    "tiny-512x1024": Shape(TINY, (512, 1024), 19),
    "small-512x1024": Shape(SMALL, (512, 1024), 19),
    "tiny-480x480": Shape(TINY, (480, 480), 59),
}


@dataclass
class Timed:
    """A form of the head, and the seconds of its runs."""

    name: str
    run: Callable[[], Sequence[Tensor]]
    seconds: list[float] = field(default_factory=list)

    def time(self) -> None:
        """Run once more."""
        started = time.process_time()
        self.run()
        self.seconds.append(time.process_time() - started)


def forward(head: nn.Module, features: Sequence[Tensor]) -> Callable[[], Sequence[Tensor]]:
    """Return the forward pass of a test."""
    head = head.eval()

    def run() -> Sequence[Tensor]:
        with torch.inference_mode():
            return [head(features)]

    return run


def training_step(head: nn.Module, shape: Shape) -> Callable[[], Sequence[Tensor]]:
    """Return forward, loss and backward, with gradients of the features, too."""
    features = [x.requires_grad_() for x in shape.features()]
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(0, shape.num_classes, (1, *shape.image), generator=generator)
    weights = [p for p in head.parameters() if p.requires_grad]

    def run() -> Sequence[Tensor]:
        head.train()
        torch.manual_seed(0)  # the same channels are dropped
        logits = head(features)
        loss = cross_entropy(resize(logits, shape.image), label)
        return [logits.detach(), *torch.autograd.grad(loss, [*features, *weights])]

    return run


def compare(forms: Sequence[Timed], repeats: int) -> None:
    """Check every form against the first, then time them in turns."""
    expected = forms[0].run()
    for form in forms[1:]:
        logits, *gradients = form.run()
        error = float((logits - expected[0]).abs().max() / expected[0].std())
        assert error < TOLERANCE, f"the logits of {form.name} differ from the plain form's by {error:.2e}"
        # together: some gradients are zero in exact arithmetic, those of biases in front of a norm
        total = sum(float(plain.square().sum()) for plain in expected[1:])
        apart = sum(float((g - plain).square().sum()) for g, plain in zip(gradients, expected[1:], strict=True))
        assert apart <= GRADIENT_TOLERANCE**2 * total, f"the gradients of {form.name} are not the plain form's"
    for _ in range(repeats):
        for form in forms:
            form.time()


def rows(name: str, repeats: int) -> list[tuple[str, str, float, float]]:
    """Measure one shape: (what, form, milliseconds, times the plain form)."""
    shape = SHAPES[name]
    head = shape.head()
    plain = PlainHead(head)
    passes = [
        Timed("plain", forward(plain, shape.features())),
        Timed("ours", forward(head, shape.features())),
        Timed("ours, norms folded", forward(fuse_norms(head), shape.features())),
    ]
    compare(passes, repeats)
    steps = [Timed("plain", training_step(plain, shape)), Timed("ours", training_step(head, shape))]
    compare(steps, repeats)
    return [
        (f"{name}, {what}", form.name, 1e3 * median(form.seconds), median(forms[0].seconds) / median(form.seconds))
        for what, forms in (("forward", passes), ("training step", steps))
        for form in forms
    ]


def main() -> int:
    """Print the table; returns 1 where a form misses the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of every form")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"ECFD's head on ResNet-50's maps, batch 1, float32, 1 CPU core, torch {torch.__version__},", end=" ")
    print(f"Python {platform.python_version()}.")
    print(f"Median processor time of {options.repeats} runs. Target: {TARGET} x.\n")
    print("| what | form | ms | faster |\n|---|---|---|---|")
    table = [row for name in options.shapes for row in rows(name, options.repeats)]
    for what, form, milliseconds, faster in table:
        print(f"| {what} | {form} | {milliseconds:.0f} | {faster:.2f} |")
    return 0 if all(faster >= TARGET for _, form, _, faster in table if form != "plain") else 1


if __name__ == "__main__":
    sys.exit(main())
