"""The commands unept-train, unept-test and unept-predict."""

from __future__ import annotations

from collections.abc import Sequence

from segcore.cli import predict_command, test_command, train_command
from unept.paper import PAPER


def train(argv: Sequence[str] | None = None) -> int:
    """unept-train RECIPE [--run.data DIR] [--optim.lr 1e-4] ..."""
    return train_command(PAPER, argv)


def test(argv: Sequence[str] | None = None) -> int:
    """unept-test RECIPE CHECKPOINT [--aug-test] [--show-dir DIR] ..."""
    return test_command(PAPER, argv)


def predict(argv: Sequence[str] | None = None) -> int:
    """unept-predict RECIPE CHECKPOINT IMAGES... [--out DIR]"""
    return predict_command(PAPER, argv)
