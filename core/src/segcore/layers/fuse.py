"""Folding of batch norms into the convolutions beside them: the same function, fewer steps, for inference only.

Found by structure: timm's conv+norm blocks and ours, and modules whose parts run in the order of their registration: a
`Sequential` and timm's blocks of residual networks. A module with norms elsewhere says so itself by a method
`fold_norms()`, which folds its own and leaves `nn.Identity` behind.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeGuard, TypeVar

import torch
from timm.layers import conv_bn_act
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.split_attn import SplitAttn
from timm.models import FeatureListNet, efficientnet, hrnet, resnet
from timm.models._efficientnet_blocks import ConvBnAct, DepthwiseSeparableConv, EdgeResidual, InvertedResidual
from timm.models.efficientformer_v2 import ConvNorm
from timm.models.resnest import ResNestBottleneck
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from segcore.layers.conv import ConvNormAct
from segcore.layers.conv_gelu import absorb_gelu
from segcore.layers.pointwise import PointwiseConv

_BLOCKS = (ConvNormAct, conv_bn_act.ConvNormAct, ConvNorm)
_IN_ORDER = (
    nn.Sequential,
    FeatureListNet,
    hrnet.HighResolutionNetFeatures,
    resnet.ResNet,
    resnet.BasicBlock,
    resnet.Bottleneck,
    ResNestBottleneck,
    SplitAttn,
    efficientnet.EfficientNetFeatures,
    ConvBnAct,
    DepthwiseSeparableConv,
    InvertedResidual,
    EdgeResidual,
)
_Network = TypeVar("_Network", bound=nn.Module)


def _statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return what an evaluated norm does to each channel: y = scale * x + shift."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift + norm.bias if norm.affine else shift


def _is_convolution(layer: object) -> TypeGuard[nn.Conv2d]:
    return type(layer) in (nn.Conv2d, Conv2dSame, PointwiseConv)  # others may change their weights as they run


def _can_fold(norm: nn.Module) -> bool:
    return isinstance(norm, _BatchNorm) and norm.track_running_stats and not norm.training


@torch.no_grad()
def fold_into_previous(conv: nn.Conv2d, norm: nn.Module) -> nn.Module:
    """Fold an evaluated batch norm into the convolution BEFORE it, in place.

    Returns:
        What takes the norm's place: its activation where it has one that the convolution cannot apply itself, else an
        identity; the norm itself where it is none, or is in training mode.
    """
    if not (_can_fold(norm) and isinstance(norm, _BatchNorm)):
        return norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    if not isinstance(norm, BatchNormAct2d):
        return nn.Identity()
    drop, act = norm.get_submodule("drop"), norm.get_submodule("act")
    return absorb_gelu(conv, act) if isinstance(drop, nn.Identity) else nn.Sequential(drop, act)


@torch.no_grad()
def fold_into_next(norm: nn.Module, conv: nn.Conv2d) -> nn.Module:
    """Fold an evaluated batch norm into the 1x1 convolution AFTER it, in place; return what takes the norm's place.

    Only for convolutions without padding, which would have to become the norm's shift instead of zero.
    """
    assert conv.kernel_size == (1, 1)
    assert conv.padding == (0, 0)
    assert conv.groups == 1
    if not (_can_fold(norm) and isinstance(norm, _BatchNorm)):
        return norm
    scale, shift = _statistics(norm)
    weight = conv.weight[:, :, 0, 0]
    bias = weight @ shift
    conv.bias = nn.Parameter(bias if conv.bias is None else conv.bias + bias)
    conv.weight = nn.Parameter((weight * scale)[:, :, None, None])
    return nn.Identity()


def fuse_norms(model: _Network) -> _Network:
    """Return a copy of `model` in evaluation mode, with its batch norms folded into convolutions where they touch.

    Tensors that folding leaves as they are belong to both networks: the copy costs the folded convolutions alone. It is
    out of date once `model` trains on.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    model = copy.deepcopy(model, shared).eval()
    for module in model.modules():
        if isinstance(module, _BLOCKS):
            _fold_block(module)
        elif isinstance(module, _IN_ORDER):
            _fold_in_order(module)
        elif hasattr(module, "fold_norms"):
            module.fold_norms()  # pyright: ignore[reportCallIssue]
    return model


def _fold_block(block: nn.Module) -> None:
    conv, norm = block.conv, getattr(block, "bn", None)
    if _is_convolution(conv) and isinstance(norm, nn.Module):
        block.bn = fold_into_previous(conv, norm)


def _fold_in_order(module: nn.Module) -> None:
    for (_, layer), (name, following) in pairwise(list(module.named_children())):
        last = layer[-1] if isinstance(layer, nn.Sequential) and len(layer) else layer  # a stem of several convolutions
        if _is_convolution(last):
            setattr(module, name, fold_into_previous(last, following))
