"""Decoders of segmentation_models_pytorch on our backbones, through the same interface as the papers' heads.

The library's decoders take a list of maps that starts with the image and a map of stride 2, which our backbones do not
give: as in the library itself for encoders without one, it has no channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from segcore.backbones import backbone_of
from segcore.backbones.unread import freeze_unread
from segcore.baselines.recipes import SMPModel
from segcore.errors import InputError
from segcore.losses import SegmentationLoss
from segcore.recipe import Model, Recipe
from segcore.segmentor import EncoderDecoder, Segmentor
from segcore.weights.names import NameMap, Shapes, no_head

_MULTIPLE = 32
"""Of the sides of what the decoders take."""


class _Kind(NamedTuple):
    """A decoder of the library.

    Attributes:
        build: (channels of image, stride 2, 4, 8, 16, 32; width) -> decoder and the channels that it gives.
        kernel: of the classifier.
        output_stride: of the backbone.
        levels: of the backbone's four, which the decoder reads.
    """

    build: Callable[[Sequence[int], int], tuple[nn.Module, int]]
    kernel: int = 1
    output_stride: int = 32
    levels: tuple[int, ...] = (0, 1, 2, 3)


def _kinds() -> dict[str, _Kind]:
    """Return the decoders by name, with the library's own settings but for the width.

    Raises:
        InputError: if the library is not installed.
    """
    try:
        from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3Decoder, DeepLabV3PlusDecoder
        from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
        from segmentation_models_pytorch.decoders.linknet.decoder import LinknetDecoder
        from segmentation_models_pytorch.decoders.manet.decoder import MAnetDecoder
        from segmentation_models_pytorch.decoders.pspnet.decoder import PSPDecoder
        from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
        from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
        from segmentation_models_pytorch.decoders.unetplusplus.decoder import UnetPlusPlusDecoder
        from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
    except ImportError as error:
        raise InputError(
            "the decoders of smp need the package segmentation_models_pytorch: pip install 'segcore[smp]'"
        ) from error
    rates = (12, 24, 36)

    def steps(width: int) -> tuple[int, ...]:
        return tuple(max(width // 2**i, 1) for i in range(5))

    def unet(channels: Sequence[int], width: int) -> tuple[nn.Module, int]:
        return UnetDecoder(channels, steps(width)), steps(width)[-1]

    def unetplusplus(channels: Sequence[int], width: int) -> tuple[nn.Module, int]:
        return UnetPlusPlusDecoder(channels, steps(width)), steps(width)[-1]

    def manet(channels: Sequence[int], width: int) -> tuple[nn.Module, int]:
        return MAnetDecoder(list(channels), list(steps(width))), steps(width)[-1]

    def linknet(channels: Sequence[int], width: int) -> tuple[nn.Module, int]:
        return LinknetDecoder(list(channels), prefinal_channels=width // 8), width // 8

    def fpn(channels: Sequence[int], width: int) -> tuple[nn.Module, int]:
        decoder = FPNDecoder(list(channels), 5, width, width // 2)
        return decoder, decoder.out_channels

    def pspnet(channels: Sequence[int], width: int) -> tuple[nn.Module, int]:
        return PSPDecoder(list(channels[:4]), out_channels=2 * width), 2 * width

    def deeplabv3(channels: Sequence[int], width: int) -> tuple[nn.Module, int]:
        return DeepLabV3Decoder(channels[-1], width, rates, False, 0.5), width

    def deeplabv3plus(channels: Sequence[int], width: int) -> tuple[nn.Module, int]:
        return DeepLabV3PlusDecoder(channels, 5, width, rates, 16, True, 0.5), width

    def upernet(channels: Sequence[int], width: int) -> tuple[nn.Module, int]:
        return UPerNetDecoder(channels, 5, width), width

    def segformer(channels: Sequence[int], width: int) -> tuple[nn.Module, int]:
        return SegformerDecoder(list(channels), 5, width), width

    return {
        "unet": _Kind(unet, kernel=3),
        "unetplusplus": _Kind(unetplusplus, kernel=3),
        "manet": _Kind(manet, kernel=3),
        "linknet": _Kind(linknet),
        "fpn": _Kind(fpn),
        "pspnet": _Kind(pspnet, kernel=3, levels=(1,)),
        "deeplabv3": _Kind(deeplabv3, output_stride=8, levels=(3,)),
        "deeplabv3plus": _Kind(deeplabv3plus, output_stride=16, levels=(0, 3)),
        "upernet": _Kind(upernet),
        "segformer": _Kind(segformer),
    }


class SMPHead(nn.Module):
    """One of the library's decoders with its classifier.

    Shapes:
        four maps at strides 4 to 32 (the coarser ones finer where the decoder wants the backbone dilated)
        -> logits (B, K, h, w) at the decoder's stride
    """

    def __init__(self, kind: _Kind, channels: Sequence[int], width: int, num_classes: int) -> None:
        super().__init__()
        from segmentation_models_pytorch.base import initialization

        self.decoder, out = kind.build((3, 0, *channels), width)
        self.classifier = nn.Conv2d(out, num_classes, kind.kernel, padding=kind.kernel // 2)
        initialization.initialize_decoder(self.decoder)
        initialization.initialize_head(self.classifier)
        self.is_short = kind.levels == (1,)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return the logits of the four levels."""
        finest = features[0]
        batch, _, height, width = finest.shape
        # only the sizes of the image's and of the stride-2 map are read
        image = finest.new_empty((batch, 0, 4 * height, 4 * width))
        half = finest.new_empty((batch, 0, 2 * height, 2 * width))
        maps = [image, half, *features]
        return self.classifier(self.decoder(maps[:4] if self.is_short else maps))


class SMP(EncoderDecoder):
    """Backbone of ours, decoder of the library."""

    def __init__(self, options: SMPModel, num_classes: int, loss: nn.Module) -> None:
        kind = _kinds()[options.decoder]
        changes = {"output_stride": kind.output_stride} if kind.output_stride != _MULTIPLE else {}
        backbone = backbone_of(options, levels=4, paper=f"smp's {options.decoder}", **changes)
        freeze_unread(backbone, kind.levels)
        head = SMPHead(kind, backbone.channels[-4:], options.width, num_classes)
        super().__init__(backbone, head, num_classes, loss)

    def legal_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the backbone's legal size of whole strides."""
        height, width = super().legal_size(-(-height // _MULTIPLE) * _MULTIPLE, -(-width // _MULTIPLE) * _MULTIPLE)
        return height, width


def build(recipe: Recipe, num_classes: int) -> SMP:
    """Return the network of a recipe with its initial weights.

    Raises:
        InputError: if the library is not installed.
    """
    assert isinstance(recipe.model, SMPModel)
    return SMP(recipe.model, num_classes, SegmentationLoss(recipe.loss))


def name_map(model: Segmentor) -> NameMap:
    """Return names of a network for parameter rules; no file was published under them."""
    return NameMap(((r"^head\.", "decode_head."),))


def infer_model(options: Model, shapes: Shapes) -> Model:
    """Return the options, whose decoder shapes do not tell.

    Raises:
        InputError: if these are not the tensors of a network of ours, as in the library's own files.
    """
    if "decode_head.classifier.weight" not in shapes:
        raise no_head("decoder on a backbone of ours (decode_head.classifier)", shapes)
    return options
