"""`torchrun --nproc-per-node 4 -m unept.test RECIPE ...`: the same as unept-test."""

import sys

from unept.cli import test

if __name__ == "__main__":
    sys.exit(test())
