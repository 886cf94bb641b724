"""`torchrun --nproc-per-node 4 -m memorynet.test RECIPE ...`: the same as memorynet-test."""

import sys

from memorynet.cli import test

if __name__ == "__main__":
    sys.exit(test())
