"""UN-EPT: https://github.com/amazon-research/unified-ept, with mmcv 1.3.0 and mmsegmentation 0.11 in one folder."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from references import Places, Published
from references.deform_attn import stand_in_for_operator, use_operator
from references.openmmlab import configuration, open_checkout
from segcore.segmentor import Target

CASES = {"r50-ade20k": 480}
BATCH_PER_GPU = 2
_STRIDE = 8  # image pixels per query


def build(recipe: str, places: Places, side: int) -> Published:
    """Return the network of the released configuration for inputs of one size."""
    open_checkout(places)
    stand_in_for_operator(places)
    if places.device == "cpu":
        torch.Tensor.cuda = lambda self, *_, **__: self  # the code asks for a GPU by name
    networks = importlib.import_module("models")
    note = use_operator(places, "models.ops.functions.ms_deform_attn_func")
    config = configuration(places, f"configs/res50_unept_{recipe.split('-')[1]}.py")
    config.test_cfg.num_queries = (side // _STRIDE) ** 2
    options: dict[str, Any] = dict(config.model)
    del options["type"]
    network = networks.UN_EPT(**options, train_cfg=config.train_cfg, test_cfg=config.test_cfg)

    def loss(image: Tensor, target: Target) -> Tensor:
        assert target.boundary_distance is not None
        assert target.boundary_angle is not None
        maps = (target.label, target.boundary_distance.long(), target.boundary_angle.long())
        return network.forward_train(image, None, *(part[:, None] for part in maps))["loss_seg"]

    return Published(
        network=network,
        forward=lambda image: network.encode_decode(image)[0],
        loss=loss,
        options={"window": side},
        note=note,
    )
