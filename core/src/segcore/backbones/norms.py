"""What recipe `model.backbone_norm` means for a backbone's batch norms.

A module with the attribute `synchronized_norm = False` keeps the norms in it per process; all others are synchronized
when training runs on several GPUs (`segcore.distributed.synchronize_norms`).
"""

from __future__ import annotations

from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from segcore.backbones.base import Backbone


def set_norm_policy(backbone: Backbone, policy: Literal["sync", "batch", "frozen"]) -> None:
    """Make a backbone's batch norms synchronized, per process, or fixed at their stored statistics, in place."""
    backbone.synchronized_norm = policy == "sync"
    backbone.has_frozen_norms = policy == "frozen"
    backbone.train(backbone.training)


def synchronized_norms(module: nn.Module) -> set[nn.Module]:
    """Return the batch norms that share their statistics when training runs on several GPUs."""
    if not getattr(module, "synchronized_norm", True):
        return set()
    found = {norm for child in module.children() for norm in synchronized_norms(child)}
    return found | {module} if isinstance(module, _BatchNorm) else found
