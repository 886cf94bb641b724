"""Inference of IIWA against the straightforward form of its blocks: written-out attention, per-image SciPy matching.

python bench/iiwa_inference.py [--repeats N] [--short]
"""

from __future__ import annotations

import argparse
import sys

import torch
from baselines.iiwa_timing import Case, report
from torch import Tensor, nn

CASES = (
    Case("s-ade20k", "neck and decoder"),
    Case("s-ade20k", "neck and decoder", batch=4),
    Case("b-ade20k-576", "neck and decoder"),
    Case("s-pascal-context-59", "neck and decoder"),
    Case("s-cityscapes", "neck and decoder"),
    Case("s-ade20k", "whole"),
    Case("s-cityscapes", "whole"),
)


def infer(model: nn.Module, given: Tensor | list[Tensor]) -> Tensor:
    """Return the logits."""
    with torch.inference_mode():
        return model(given)


def main() -> int:
    """Print the table; returns 1 where the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of every form")
    parser.add_argument("--short", action="store_true", help="the first case only")
    options = parser.parse_args()
    return report(CASES[:1] if options.short else CASES, infer, options.repeats, is_training=False)


if __name__ == "__main__":
    sys.exit(main())
