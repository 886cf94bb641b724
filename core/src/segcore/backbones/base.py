"""What every backbone is: a module that turns an image into a list of feature maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Backbone(nn.Module, ABC):
    """Image -> feature maps, fine to coarse.

    Attributes:
        channels: channels of each map.
        strides: image pixels per feature pixel of each map (rounded where the patch size is no power of two).
        synchronized_norm: batch norms share their statistics when training runs on several GPUs.
        has_frozen_norms: batch norms keep their stored statistics in training too.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    synchronized_norm: bool = True
    has_frozen_norms: bool = False

    @abstractmethod
    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalized RGB (B, 3, H, W) of a legal size -> one (B, channels[i], h_i, w_i) per level."""

    def legal_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the smallest (height, width) that holds the given one and that `forward` takes, pixels."""
        return height, width

    def train(self, mode: bool = True) -> Self:
        """Switch the mode; frozen batch norms stay in evaluation mode."""
        super().train(mode)
        if self.has_frozen_norms:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
