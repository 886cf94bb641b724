"""Parameters of a backbone that no head reads from: those of levels, and of their norms, that it leaves out.

They get no gradient, which `DistributedDataParallel` takes for a fault.
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from segcore.backbones.base import Backbone

_SIZE = (64, 64)
_known: dict[tuple[object, ...], list[str]] = {}


def unread_parameters(backbone: Backbone, levels: Collection[int]) -> list[str]:
    """Return the names of the parameters that train, but lead to none of the levels that are read.

    Args:
        levels: indices of the feature maps that are read; negative ones count from the last.
    """
    names = tuple(name for name, parameter in backbone.named_parameters() if parameter.requires_grad)
    read = tuple(sorted({level % len(backbone.channels) for level in levels}))
    if len(read) == len(backbone.channels):
        return []
    key = (type(backbone), names, read)
    if key not in _known:  # the same network is often built again
        _known[key] = _without_gradient(backbone, names, read)
    return _known[key]


def freeze_unread(backbone: Backbone, levels: Collection[int]) -> None:
    """Fix the parameters that lead to none of the levels that are read; they would keep their values anyway."""
    for name in unread_parameters(backbone, levels):
        backbone.get_parameter(name).requires_grad_(False)


def _without_gradient(backbone: Backbone, names: Collection[str], levels: Collection[int]) -> list[str]:
    """Ask autograd on the meta device, where tensors have shapes but no values.

    Nothing is computed there, and neither running statistics nor random numbers move.
    """
    tensors = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    with torch.inference_mode(False), torch.enable_grad():  # networks are built inside such blocks, too
        blank = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
        trained = [blank[name].requires_grad_() for name in names]
        image = torch.empty(2, 3, *backbone.legal_size(*_SIZE), device="meta")
        maps = torch.func.functional_call(backbone, blank, (image,))
        gradients = torch.autograd.grad([maps[level].sum() for level in levels], trained, allow_unused=True)
    return [name for name, gradient in zip(names, gradients, strict=True) if gradient is None]
