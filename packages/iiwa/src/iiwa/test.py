"""`torchrun --nproc-per-node 4 -m iiwa.test RECIPE ...`: the same as iiwa-test."""

import sys

from iiwa.cli import test

if __name__ == "__main__":
    sys.exit(test())
