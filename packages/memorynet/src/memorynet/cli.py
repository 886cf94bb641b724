"""The commands memorynet-train, memorynet-test and memorynet-predict."""

from memorynet.paper import PAPER
from segcore.commands.parsing import commands

train, test, predict = commands(PAPER)
