"""The commands memorynet-train, memorynet-test and memorynet-predict."""

from __future__ import annotations

from collections.abc import Sequence

from memorynet.paper import PAPER
from segcore.cli import predict_command, test_command, train_command


def train(argv: Sequence[str] | None = None) -> int:
    """memorynet-train RECIPE [--run.data DIR] [--optim.lr 1e-4] ..."""
    return train_command(PAPER, argv)


def test(argv: Sequence[str] | None = None) -> int:
    """memorynet-test RECIPE CHECKPOINT [--aug-test] [--show-dir DIR] ..."""
    return test_command(PAPER, argv)


def predict(argv: Sequence[str] | None = None) -> int:
    """memorynet-predict RECIPE CHECKPOINT IMAGES... [--out DIR]"""
    return predict_command(PAPER, argv)
