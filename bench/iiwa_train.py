"""Training step (forward and backward) of IIWA against the straightforward form of its blocks.

python bench/iiwa_train.py [--repeats N] [--short]
"""

from __future__ import annotations

import argparse
import sys

from baselines.iiwa_timing import Case, report
from torch import Tensor, nn

CASES = (
    Case("s-ade20k", "neck and decoder"),
    Case("s-pascal-context-59", "neck and decoder"),
    Case("s-cityscapes", "neck and decoder"),
    Case("s-ade20k", "whole", batch=2, size=(256, 256)),  # a whole crop would need more memory than it tells
)


def train(model: nn.Module, given: Tensor | list[Tensor]) -> Tensor:
    """Return the logits of a forward pass whose gradients were computed."""
    model.zero_grad(set_to_none=True)
    logits = model(given)
    logits.square().mean().backward()
    return logits.detach()


def main() -> int:
    """Print the table; returns 1 where the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="timed steps of every form")
    parser.add_argument("--short", action="store_true", help="the first case only")
    options = parser.parse_args()
    return report(CASES[:1] if options.short else CASES, train, options.repeats, is_training=True)


if __name__ == "__main__":
    sys.exit(main())
