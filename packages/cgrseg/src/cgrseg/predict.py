"""`torchrun --nproc-per-node 4 -m cgrseg.predict RECIPE ...`: the same as cgrseg-predict."""

import sys

from cgrseg.cli import predict

if __name__ == "__main__":
    sys.exit(predict())
