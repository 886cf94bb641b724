"""The commands cgrseg-train, cgrseg-test and cgrseg-predict."""

from __future__ import annotations

from collections.abc import Sequence

from cgrseg.paper import PAPER
from segcore.cli import predict_command, test_command, train_command


def train(argv: Sequence[str] | None = None) -> int:
    """cgrseg-train RECIPE [--run.data DIR] [--optim.lr 1e-4] ..."""
    return train_command(PAPER, argv)


def test(argv: Sequence[str] | None = None) -> int:
    """cgrseg-test RECIPE CHECKPOINT [--aug-test] [--show-dir DIR] ..."""
    return test_command(PAPER, argv)


def predict(argv: Sequence[str] | None = None) -> int:
    """cgrseg-predict RECIPE CHECKPOINT IMAGES... [--out DIR]"""
    return predict_command(PAPER, argv)
