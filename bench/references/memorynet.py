"""MemoryNet: https://github.com/SegmentationBLWX/sssegmentation at 04faeee6 (2022-08), with mmcv 1.6."""

from __future__ import annotations

import copy
import importlib
from typing import Any

from torch import Tensor

from references import Places, Published, stand_in
from references.openmmlab import open_checkout
from segcore.segmentor import Target

CASES = {"r50-ade20k": 512}
BATCH_PER_GPU = 2
"""16 in all; no configuration says how many GPUs, the launcher's default is 8."""
_LR = 0.01
# for data sets, and for a script beside the network
_UNUSED = (
    "pandas",
    "chainercv",
    "chainercv.evaluations",
    "sklearn",
    "sklearn.cluster",
    "sklearn.preprocessing",
    "sklearn.metrics",
    "sklearn.metrics.pairwise",
    "timm",
)


def build(recipe: str, places: Places, side: int) -> Published:
    """Return the network of a released configuration; it takes images of every size."""
    del side
    open_checkout(places)
    stand_in(_UNUSED)
    config = importlib.import_module(f"ssseg.configs.memorynet.memorynet_deeplabv3_resnet50os8_{recipe[4:]}")
    models = importlib.import_module("ssseg.modules.models.segmentors")
    options: dict[str, Any] = copy.deepcopy(config.SEGMENTOR_CFG)
    options["backbone"]["pretrained"] = False
    options["head"]["dropout"] = options["auxiliary"]["dropout"] = 0.0
    network = models.BuildSegmentor(options, mode="TEST")

    def forward(image: Tensor) -> Tensor:
        network.mode = "TEST"
        return network(image)

    def loss(image: Tensor, target: Target) -> Tensor:
        network.mode = "TRAIN"
        targets = {"segmentation": target.label}
        return network(image, targets, config.LOSSES_CFG, learning_rate=_LR, epoch=1)[0]

    return Published(network=network, forward=forward, loss=loss)
