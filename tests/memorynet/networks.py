"""Small MemoryNets, batches and filled memories for the tests of this package."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from memorynet.model import MemoryNet
from memorynet.recipes import MemoryNetModel
from segcore.segmentor import StepInfo, Target

SMALL = MemoryNetModel(backbone="resnet18", pretrained=False, width=16, attention_width=8, dropout=0.0, momentum_lr=0.1)
STEP = StepInfo(iteration=0, total=10, lr=0.05, epoch=2)


def small_network(num_classes: int = 5, **changes: Any) -> MemoryNet:
    """Return a MemoryNet whose memory is filled and whose every branch shows in the logits, in evaluation mode."""
    torch.manual_seed(0)
    model = MemoryNet(replace(SMALL, **changes), num_classes)
    generator = torch.Generator().manual_seed(0)
    model.head.memory.rows.normal_(generator=generator)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, std=0.1, generator=generator)
    return model.eval()


def random(*shape: int, seed: int = 0) -> Tensor:
    """Return standard normal values."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch_of(
    *size: int, batch: int = 2, classes: tuple[int, ...] = (0, 1, 2, 3), seed: int = 0
) -> tuple[Tensor, Target]:
    """Return images and blocks of the given classes, a few pixels ignored."""
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randint(0, len(classes), (batch, -(-size[0] // 8), -(-size[1] // 8)), generator=generator)
    label = torch.tensor(classes)[picked].repeat_interleave(8, 1).repeat_interleave(8, 2)[:, : size[0], : size[1]]
    label = label.clone()
    label[:, :3] = 255
    return random(batch, 3, *size, seed=seed), Target(label)
