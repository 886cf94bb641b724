"""Small UN-EPT networks and targets for the tests of this package."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from segcore.segmentor import StepInfo, Target
from unept.model import UNEPT
from unept.recipes import UNEPTModel

STEP = StepInfo(iteration=0, total=1, lr=0.0)


def small_options(**changes: Any) -> UNEPTModel:
    """Return options of a network of a few milliseconds, for windows of 64 pixels."""
    sizes = {"width": 32, "heads": 4, "points": 2, "feedforward": 48, "window": 64}
    start = {"backbone": "resnet10t", "pretrained": False, "backbone_norm": "batch"}
    return UNEPTModel(**{**start, **sizes, **changes})


def small_network(num_classes: int = 7, **changes: Any) -> UNEPT:
    """Return a network whose offsets, attention weights and norm statistics all show, in evaluation mode."""
    torch.manual_seed(0)
    model = UNEPT(small_options(**changes), num_classes)
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("sampling_offsets.weight", "attention_weights.weight", "bias")):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def random_image(*shape: int, seed: int = 0) -> Tensor:
    """Return normal noise."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_target(batch: int, height: int, width: int, num_classes: int, seed: int = 0) -> Target:
    """Return labels with ignored pixels, and boundary maps with padding, all in blocks of 4x4 pixels."""
    rng = np.random.RandomState(seed)
    shape = (batch, -(-height // 4), -(-width // 4))
    label = rng.randint(0, num_classes, shape)
    label[rng.rand(*shape) < 0.05] = 255
    maps = [label, rng.randint(0, 13, shape), 2 * rng.randint(0, 181, shape) - 180]
    label, distance, angle = (
        torch.from_numpy(part.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width].copy()) for part in maps
    )
    for part in (label, distance, angle):
        part[..., -8:] = 255
    return Target(label.long(), distance.float(), angle.float())


def gather_pixels(values: Tensor, pixels: Tensor) -> Tensor:
    """Return the values at other pixels: out[b, c, y, x] = values[b, c] at pixels[b, y, x].

    Exact where the released code interpolates at whole coordinates with noise of 1e-5 (unept/PAPER 7.6).

    Shapes:
        values (B, C, H, W), pixels (B, H, W) int64, indices y * W + x -> (B, C, H, W)
    """
    index = pixels.flatten(1)[:, None].expand(-1, values.shape[1], -1)  # (B, C, H*W)
    return values.flatten(2).gather(2, index).view(values.shape)
