"""`torchrun --nproc-per-node 4 -m ecfd.test RECIPE ...`: the same as ecfd-test."""

import sys

from ecfd.cli import test

if __name__ == "__main__":
    sys.exit(test())
