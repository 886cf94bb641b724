"""The commands iiwa-train, iiwa-test and iiwa-predict."""

from __future__ import annotations

from collections.abc import Sequence

from iiwa.paper import PAPER
from segcore.cli import predict_command, test_command, train_command


def train(argv: Sequence[str] | None = None) -> int:
    """iiwa-train RECIPE [--run.data DIR] [--optim.lr 6e-5] ..."""
    return train_command(PAPER, argv)


def test(argv: Sequence[str] | None = None) -> int:
    """iiwa-test RECIPE CHECKPOINT [--aug-test] [--show-dir DIR] ..."""
    return test_command(PAPER, argv)


def predict(argv: Sequence[str] | None = None) -> int:
    """iiwa-predict RECIPE CHECKPOINT IMAGES... [--out DIR]"""
    return predict_command(PAPER, argv)
