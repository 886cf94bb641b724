"""Parameters and multiply-adds of a network, as the papers count them and as torch counts them.

The papers' figures ("FLOPs") come from mmcv's counter: multiply-adds, seen by module hooks (ecfd/PAPER 8, cgrseg/PAPER
5.4). Its rules are kept here, because a table must be comparable; what it overlooks is in `macs_torch`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from segcore.distributed import synchronized_norms

_GIGA = 1e9
_MEGA = 1e6
_ONE_PER_OUTPUT = (nn.ReLU, nn.ReLU6, nn.PReLU, nn.ELU, nn.LeakyReLU)
_ONE_PER_INPUT = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_NORMS = (_BatchNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


class Count(NamedTuple):
    """The cost of one forward pass of one image.

    Attributes:
        params: parameters.
        macs_mmcv: multiply-adds by the rules of the published figures.
        macs_torch: multiply-adds of every convolution and matrix product that really runs, attention included.
    """

    params: int
    macs_mmcv: int
    macs_torch: int


def _macs_of_mmcv(module: nn.Module, x: Tensor, y: Tensor) -> int:
    """Return what mmcv's counter adds for one call of a module; 0 for kinds it does not know."""
    if hasattr(module, "published_macs"):  # a faster form of a published step says what that one costs
        return module.published_macs(y)  # pyright: ignore[reportCallIssue]
    if isinstance(module, nn.ConvTranspose2d):
        per_position = module.weight.numel()
        return x.numel() // x.shape[1] * per_position + (y.numel() if module.bias is not None else 0)
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        per_value = module.weight.numel() // module.out_channels
        return y.numel() * (per_value + (module.bias is not None))
    if isinstance(module, nn.Linear):
        return x.numel() * module.out_features
    # a layer norm of another class, as in every ConvNeXt, was not known to the counter
    if isinstance(module, _NORMS) or type(module) is nn.LayerNorm:
        is_affine = getattr(module, "affine", getattr(module, "elementwise_affine", False))
        return x.numel() * (2 if is_affine else 1)
    if isinstance(module, _ONE_PER_OUTPUT):
        return y.numel()
    if isinstance(module, _ONE_PER_INPUT):
        return x.numel()
    if isinstance(module, nn.Upsample):
        return y[0].numel()  # one image's values, as the counter takes the first of the batch
    return 0


def count(model: nn.Module, size: tuple[int, int], device: str | torch.device = "meta") -> Count:
    """Count a network for one image of `size` (height, width) pixels.

    Norms that are to be synchronized are left out: the published figures were counted on models that had them already,
    of a kind that the counter does not know.

    Args:
        model: takes (B, 3, H, W); must lie on `device`, and is put in evaluation mode.
        device: "meta" computes shapes only; a network is built there with `with torch.device("meta")`.
    """
    uncounted = synchronized_norms(model)
    total = 0

    def add(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal total
        if module not in uncounted and isinstance(output, Tensor) and inputs and isinstance(inputs[0], Tensor):
            total += _macs_of_mmcv(module, inputs[0], output)

    hooks = [module.register_forward_hook(add) for module in model.modules()]
    is_training = model.training
    model.eval()
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            model(torch.zeros(1, 3, *size, device=device))
    finally:
        for hook in hooks:
            hook.remove()
        model.train(is_training)
    params = sum(p.numel() for p in model.parameters())
    return Count(params, total, counter.get_total_flops() // 2)


def format_count(result: Count) -> str:
    """Return a count in the papers' units, one line."""
    return (
        f"{result.params / _MEGA:.2f} M parameters, {result.macs_mmcv / _GIGA:.2f} GMACs as published, "
        f"{result.macs_torch / _GIGA:.2f} GMACs of convolutions and matrix products"
    )
