"""Small ECFD networks for the tests of this package."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ecfd.model import ECFD, HEADS, Decoder
from ecfd.recipes import ECFDModel, Head

CHANNELS = (8, 16, 24, 32)
VARIANTS: tuple[Head, ...] = ("ecfd", "patch4", "fpn", "general_fpn", "general", "spatial")


def options(**changes: Any) -> ECFDModel:
    """Return options of a small network from scratch."""
    small = {"embed_dim": 24, "heads": 3, "channels": 16, "depth": 2, "position_grid": (16, 24)}
    base = {"backbone": "resnet18", "pretrained": False, "auxiliary_channels": 16}
    return ECFDModel(**{**base, **small, **changes})


def roughen(module: nn.Module) -> None:
    """Give every branch a share of the output: fresh networks have gamma 0, flat positions and uniform attention."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in module.named_parameters():
        if name.endswith(("cicm.gamma", "position.embedding", "sampling_offsets.weight", "attention_weights.weight")):
            nn.init.normal_(parameter, std=0.3, generator=generator)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_(std=0.1, generator=generator)
            part.running_var.uniform_(0.5, 1.5, generator=generator)


def small_head(head: Head = "ecfd", num_classes: int = 5, **changes: Any) -> Decoder:
    """Return a head alone, for maps of `CHANNELS`, in evaluation mode."""
    torch.manual_seed(0)
    result = HEADS[head](CHANNELS, num_classes, options(head=head, **changes))
    roughen(result)
    return result.eval()


def small_network(num_classes: int = 5, **changes: Any) -> ECFD:
    """Return a network on ResNet-18, in evaluation mode."""
    torch.manual_seed(0)
    model = ECFD(options(**changes), num_classes)
    roughen(model)
    return model.eval()


def feature_maps(height: int = 24, width: int = 40, batch: int = 2, head: Head = "ecfd") -> list[Tensor]:
    """Draw maps of `CHANNELS`: level 1 of the given size, each level half of the one before, rounded up."""
    generator = torch.Generator().manual_seed(2)
    sizes = [(height, width)]
    for _ in CHANNELS[1:]:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    if head == "general":  # of a dilated backbone
        sizes[2:] = [sizes[1]] * 2
    return [torch.randn(batch, c, *size, generator=generator) for c, size in zip(CHANNELS, sizes, strict=True)]
