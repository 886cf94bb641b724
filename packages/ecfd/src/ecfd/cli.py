"""The commands ecfd-train, ecfd-test and ecfd-predict."""

from ecfd.paper import PAPER
from segcore.commands.parsing import commands

train, test, predict = commands(PAPER)
