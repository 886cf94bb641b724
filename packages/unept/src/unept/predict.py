"""`torchrun --nproc-per-node 4 -m unept.predict RECIPE ...`: the same as unept-predict."""

import sys

from unept.cli import predict

if __name__ == "__main__":
    sys.exit(predict())
