"""`torchrun --nproc-per-node 4 -m ecfd.train RECIPE ...`: the same as ecfd-train."""

import sys

from ecfd.cli import train

if __name__ == "__main__":
    sys.exit(train())
