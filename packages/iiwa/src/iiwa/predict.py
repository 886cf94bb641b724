"""`torchrun --nproc-per-node 4 -m iiwa.predict RECIPE ...`: the same as iiwa-predict."""

import sys

from iiwa.cli import predict

if __name__ == "__main__":
    sys.exit(predict())
