"""`python -m tests.faults.tiny_train RECIPE ...`: the tiny paper's training as a module that torchrun starts."""

from segcore.commands.train import train_command
from tests.tiny_paper import PAPER

if __name__ == "__main__":
    raise SystemExit(train_command(PAPER)())
