"""CGRSeg: https://github.com/nizhenliang/CGRSeg, with mmcv 1.6."""

from __future__ import annotations

import sys

from timm import layers
from timm.layers import helpers
from torch import nn

from references import Places, Published
from references.openmmlab import aug_test, configuration, encode_decode, open_checkout, segmentor, total

CASES = {"t-ade20k": 512, "b-ade20k": 512, "l-ade20k": 512}
BATCH_PER_GPU = 4


def build(recipe: str, places: Places, side: int) -> Published:
    """Return the network of a released configuration; it takes images of every size."""
    del side
    open_checkout(places)
    # the release lacks this copy of timm's folder
    sys.modules |= {"mmseg.models.layers": layers, "mmseg.models.layers.helpers": helpers}
    config = configuration(places, f"local_configs/cgrseg/cgrseg-{recipe[0]}_ade20k_160k.py")
    network = segmentor(config)
    # as its distributed training does; with plain norms it would keep their statistics
    network.backbone = nn.SyncBatchNorm.convert_sync_batchnorm(network.get_submodule("backbone"))
    test = aug_test(network, config)
    return Published(network=network, forward=encode_decode(network), loss=total(network), aug_test=test)
