"""What recipe `model.backbone_norm` means for a backbone's batch norms.

A module with the attribute `synchronized_norm = False` keeps the norms in it per process; all others are synchronized
when training runs on several GPUs (`segcore.distributed.synchronized_norms`).
"""

from __future__ import annotations

from typing import Literal

from segcore.backbones.base import Backbone


def freeze_backbone(backbone: Backbone) -> None:
    """Fix a backbone: no weight of it trains, and its batch norms keep their stored statistics."""
    backbone.requires_grad_(False)
    set_norm_policy(backbone, "frozen")


def set_norm_policy(backbone: Backbone, policy: Literal["sync", "batch", "frozen"]) -> None:
    """Make a backbone's batch norms synchronized, per process, or fixed at their stored statistics, in place."""
    backbone.synchronized_norm = policy == "sync"
    backbone.has_frozen_norms = policy == "frozen"
    backbone.train(backbone.training)
