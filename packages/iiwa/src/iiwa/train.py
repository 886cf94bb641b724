"""`torchrun --nproc-per-node 4 -m iiwa.train RECIPE ...`: the same as iiwa-train."""

import sys

from iiwa.cli import train

if __name__ == "__main__":
    sys.exit(train())
