"""`torchrun --nproc-per-node 4 -m cgrseg.test RECIPE ...`: the same as cgrseg-test."""

import sys

from cgrseg.cli import test

if __name__ == "__main__":
    sys.exit(test())
