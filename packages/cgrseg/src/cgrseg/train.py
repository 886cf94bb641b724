"""`torchrun --nproc-per-node 4 -m cgrseg.train RECIPE ...`: the same as cgrseg-train."""

import sys

from cgrseg.cli import train

if __name__ == "__main__":
    sys.exit(train())
