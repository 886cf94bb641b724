"""The commands iiwa-train, iiwa-test and iiwa-predict."""

from iiwa.paper import PAPER
from segcore.commands.parsing import commands

train, test, predict = commands(PAPER)
