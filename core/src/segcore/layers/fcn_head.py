"""Fully convolutional head: the auxiliary head of ECFD and MemoryNet, docs/protocol 5.5; the classifier of heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from segcore.layers.conv import Activation, ConvNormAct


def pixel_classifier(channels: int, num_classes: int) -> nn.Conv2d:
    """Return the last 1x1 convolution of a head, initialized as in mmsegmentation: normal (std 0.01), bias 0."""
    classifier = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)  # pyright: ignore[reportArgumentType]
    return classifier


class FCNHead(nn.Module):
    """3x3 convolutions with batch norm and ReLU, channel dropout, 1x1 classifier on one feature level.

    Tensor names are `convs.<i>.{conv,bn}.*` and `classifier.*` (published: `conv_seg.*`; family S numbers the modules
    of one Sequential instead).

    Args:
        in_channels: channels of the level.
        channels: width of the convolutions.
        num_classes: K.
        index: level of the feature list to use.
        dropout: probability that a channel is dropped before the classifier.
        upsample: nearest upsampling factor after each convolution (MemoryNet's ViT: 4); 1 does none.
        activation: after each norm; MemoryNet's ResNets on LIP have the leaky one (slope 0.01).

    Shapes:
        list of feature maps, level `index` (B, C, h, w) -> logits (B, K, h * u, w * u), u = upsample ** num_convs
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_classes: int,
        *,
        index: int,
        num_convs: int = 1,
        dropout: float = 0.1,
        upsample: int = 1,
        activation: Activation = "ReLU",
    ) -> None:
        super().__init__()
        if num_convs < 1:
            raise ValueError(f"num_convs must be at least 1, got {num_convs}")
        self.index = index
        self.channels = channels
        self.upsample = upsample
        widths = [in_channels] + [channels] * num_convs
        self.convs = nn.ModuleList(
            ConvNormAct(widths[i], widths[i + 1], 3, activation=activation) for i in range(num_convs)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = pixel_classifier(channels, num_classes)

    def pixels(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the features that are classified and their logits, before the last upsampling.

        Shapes:
            level `index` (B, C, h, w) -> (B, channels, h', w'), (B, K, h', w'), h' = h * upsample ** (num_convs - 1)
        """
        x = features[self.index]
        for i, conv in enumerate(self.convs):
            x = conv(x if i == 0 else self._enlarge(x))
        return x, self.classifier(self.dropout(x))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return the logits of level `index`, see the class."""
        # Nearest upsampling commutes with the dropout of whole channels and the 1x1 classifier: K channels are cheaper.
        return self._enlarge(self.pixels(features)[1])

    def _enlarge(self, x: Tensor) -> Tensor:
        return x if self.upsample == 1 else F.interpolate(x, scale_factor=self.upsample, mode="nearest")
