"""What each of two processes does for `test_distributed`; prints one JSON line. Run as `python FILE`."""

from __future__ import annotations

import json
import logging
import sys

import torch
from torch import nn

from segcore import distributed


def main() -> None:
    torch.set_num_threads(1)
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    place = distributed.init("cpu")
    norm = nn.BatchNorm2d(2)
    result = {
        "rank": place.rank,
        "size": place.size,
        "is_main": distributed.is_main(),
        "sum": distributed.all_reduce_sum(torch.tensor([place.rank + 1, 2**40])).tolist(),
        "max": distributed.all_reduce_max(torch.tensor(float(place.rank))).item(),
        "object": distributed.broadcast_object({"from": place.rank}),
        "norm_is_unchanged": distributed.synchronize_norms(norm) is norm,
    }
    distributed.barrier()
    distributed.shutdown()
    result["size_after"] = distributed.world().size
    print(json.dumps(result))


if __name__ == "__main__":
    main()
