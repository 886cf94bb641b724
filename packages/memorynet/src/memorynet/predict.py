"""`torchrun --nproc-per-node 4 -m memorynet.predict RECIPE ...`: the same as memorynet-predict."""

import sys

from memorynet.cli import predict

if __name__ == "__main__":
    sys.exit(predict())
