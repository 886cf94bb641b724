"""The commands unept-train, unept-test and unept-predict."""

from segcore.commands.parsing import commands
from unept.paper import PAPER

train, test, predict = commands(PAPER)
