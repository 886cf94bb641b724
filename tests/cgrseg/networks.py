"""Small CGRSeg networks for the tests of this package."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cgrseg.model import CGRSeg, cgrseg_s0


def small_network(num_classes: int = 7, **changes: Any) -> CGRSeg:
    """Return CGRSeg on the smallest backbone, all of whose branches show in the logits, in evaluation mode.

    Fresh networks have residual branches scaled by 1e-5 and a constant gate: differences there would go unseen.
    """
    torch.manual_seed(0)
    model = cgrseg_s0(num_classes, **{"pretrained": False, "width": 32, "pyramid_modules": 1, **changes})
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    for name, parameter in model.named_parameters():
        if name.endswith(("gamma", "position_bias.table")) or "guidance.expand" in name:
            nn.init.normal_(parameter, std=0.3, generator=generator)
    return model.eval()
