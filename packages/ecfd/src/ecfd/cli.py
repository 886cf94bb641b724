"""The commands ecfd-train, ecfd-test and ecfd-predict."""

from __future__ import annotations

from collections.abc import Sequence

from ecfd.paper import PAPER
from segcore.cli import predict_command, test_command, train_command


def train(argv: Sequence[str] | None = None) -> int:
    """ecfd-train RECIPE [--run.data DIR] [--optim.lr 1e-4] ..."""
    return train_command(PAPER, argv)


def test(argv: Sequence[str] | None = None) -> int:
    """ecfd-test RECIPE CHECKPOINT [--aug-test] [--show-dir DIR] ..."""
    return test_command(PAPER, argv)


def predict(argv: Sequence[str] | None = None) -> int:
    """ecfd-predict RECIPE CHECKPOINT IMAGES... [--out DIR]"""
    return predict_command(PAPER, argv)
