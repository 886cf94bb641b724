"""`torchrun --nproc-per-node 4 -m unept.train RECIPE ...`: the same as unept-train."""

import sys

from unept.cli import train

if __name__ == "__main__":
    sys.exit(train())
