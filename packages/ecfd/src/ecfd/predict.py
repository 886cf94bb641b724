"""`torchrun --nproc-per-node 4 -m ecfd.predict RECIPE ...`: the same as ecfd-predict."""

import sys

from ecfd.cli import predict

if __name__ == "__main__":
    sys.exit(predict())
