"""Trains the tiny paper for two steps, tests it and predicts, in the current folder: argument is an image there."""

from __future__ import annotations

import sys

from segcore.commands.predict import predict_command
from segcore.commands.test import test_command
from segcore.commands.train import train_command
from tests.tiny_paper import PAPER

if __name__ == "__main__":
    train = ("--work-dir", "run", "--schedule.iterations", "2", "--run.log-interval", "1", "--data.workers", "1")
    code = train_command(PAPER)(["toy", *train, "--run.device", "cpu"])
    weights = ("run/best.safetensors", "--run.device", "cpu")
    code = code or test_command(PAPER)(["toy", *weights])
    sys.exit(code or predict_command(PAPER)(["toy", *weights, sys.argv[1], "--out", "masks"]))
