"""IIWA's backbone: Swin of https://github.com/open-mmlab/mmsegmentation 0.30, with mmcv 1.6.

Neck and decoder were never released (iiwa/PAPER 0): the whole network can be compared with nothing.
"""

from __future__ import annotations

import importlib

from references import Places, Published
from references.openmmlab import open_checkout
from segcore.backbones.swin_names import OPENMMLAB

CASES = {"s-ade20k": 512}
BATCH_PER_GPU = 2


def build(recipe: str, places: Places, side: int) -> Published:
    """Return Swin-S with the strides of the released configurations."""
    del recipe, side
    open_checkout(places)
    swin = importlib.import_module("mmseg.models.backbones.swin")
    network = swin.SwinTransformer(
        embed_dims=96,
        depths=(2, 2, 18, 2),
        num_heads=(3, 6, 12, 24),
        window_size=7,
        strides=(4, 2, 1, 1),
        drop_path_rate=0.0,
        init_cfg=None,
    )
    note = "The backbone alone; the loss of its step is the sum of its levels' mean squares."
    return Published(network=network, forward=network, loss=None, part="backbone", name_map=OPENMMLAB, note=note)
