"""The commands cgrseg-train, cgrseg-test and cgrseg-predict."""

from cgrseg.paper import PAPER
from segcore.commands.parsing import commands

train, test, predict = commands(PAPER)
