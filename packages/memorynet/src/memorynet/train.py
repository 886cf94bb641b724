"""`torchrun --nproc-per-node 4 -m memorynet.train RECIPE ...`: the same as memorynet-train."""

import sys

from memorynet.cli import train

if __name__ == "__main__":
    sys.exit(train())
