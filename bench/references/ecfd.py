"""ECFD: https://github.com/songyang-xiaobai/ECFD-main, with mmcv 1.3.0."""

from __future__ import annotations

import collections
import importlib
import sys
from types import ModuleType

from references import Places, Published, prefer
from references.deform_attn import stand_in_for_operator, use_operator
from references.openmmlab import aug_test, configuration, encode_decode, open_checkout, segmentor, total

CASES = {"tiny-r50-pascal-context-59": 480, "small-r50-pascal-context-59": 480}
BATCH_PER_GPU = 2


def build(recipe: str, places: Places, side: int) -> Published:
    """Return the network of a released run; its position grid is stretched to every size.

    The files of configs/ look for their base in a folder where it is not: the log's copy is whole.
    """
    del side
    prefer(places.reference / "detection")  # holds the operator
    open_checkout(places)
    six = ModuleType("torch._six")  # went with torch 2
    six.container_abcs = collections.abc  # pyright: ignore[reportAttributeAccessIssue]
    sys.modules["torch._six"] = six
    stand_in_for_operator(places)
    note = use_operator(places, "ops.functions.ms_deform_attn_func")
    importlib.import_module("mmseg.models.decode_heads.fcn_head")  # left out of the release's list
    size = recipe.split("-")[0]
    run = f"ecfd_{size}_r50_480x480_80k_pascal_context"
    config = configuration(places, f"logs/pascal-context/{run}/{run}.py")
    network = segmentor(config)
    test = aug_test(network, config)
    return Published(network=network, forward=encode_decode(network), loss=total(network), aug_test=test, note=note)
