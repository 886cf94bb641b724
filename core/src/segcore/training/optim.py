"""Optimizer, its parameter groups, the learning-rate schedules and the moving average of the weights.

Parameter rules match substrings of the PUBLISHED tensor names (docs/protocol 6.1), so that the same tensors fall
into the same groups as in the published training, whatever our modules are called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from segcore.errors import InputError, check
from segcore.recipe import Optim, Schedule
from segcore.weights.names import NameMap


def rule(published_name: str, optim: Optim) -> tuple[float, float]:
    """Return the factor on the learning rate and the weight decay of one parameter.

    The longest key of the two tables that is a substring of the name decides alone (ties: the alphabetically first),
    also about the factor that its own table does not give, which is then 1.
    """
    keys = sorted({*optim.lr_mult, *optim.decay_mult}, key=lambda key: (-len(key), key))
    key = next((key for key in keys if key in published_name), None)
    if key is None:
        return 1.0, optim.weight_decay
    return optim.lr_mult.get(key, 1.0), optim.weight_decay * optim.decay_mult.get(key, 1.0)


def parameter_groups(model: nn.Module, name_map: NameMap, optim: Optim) -> list[dict[str, Any]]:
    """Return one group per pair of learning-rate factor and weight decay, for the parameters that train.

    Groups are ordered by (factor, weight decay) and their parameters as in the model, so that a saved optimizer state
    fits again. Each has `params`, `lr` (its own base rate), `lr_mult` and `weight_decay`.
    """
    members: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members.setdefault(rule(name_map.to_published(name), optim), []).append(parameter)
    return [
        {"params": members[key], "lr": optim.lr * key[0], "lr_mult": key[0], "weight_decay": key[1]}
        for key in sorted(members)
    ]


def build_optimizer(model: nn.Module, name_map: NameMap, optim: Optim) -> torch.optim.Optimizer:
    """Return AdamW or SGD over the groups of `parameter_groups`, with the fused kernels of CPU and CUDA.

    The model must already be on its device.
    """
    groups = parameter_groups(model, name_map, optim)
    if not groups:
        raise InputError("the model has no parameter to train: check the options that freeze parts of it")
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    fused = devices <= {"cpu", "cuda"}
    if optim.kind == "sgd":
        return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, fused=fused)
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=fused)


_MOMENTS = {torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"}, torch.optim.SGD: {"momentum_buffer"}}


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Give an optimizer the moments of a saved one; the options of its groups stay those of the recipe.

    A state may know more parameters: older versions trained those that lead to no output as well (`backbones.unread`).
    They never had a gradient, hence no moments: the others are still in the same order.

    Raises:
        InputError: if the moments are not those of these parameters.
    """
    own = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    sizes = [[len(group["params"]) for group in groups] for groups in (own["param_groups"], saved["param_groups"])]
    moments = saved["state"]
    places = range(len(parameters)) if sizes[0] == sizes[1] or not moments else sorted(moments)
    check(
        len(places) == len(parameters),
        f"its optimizer knows {len(places)} trained parameters, the network has {len(parameters)}",
    )
    taken = {i: moments[place] for i, place in enumerate(places) if place in moments}
    for i, values in taken.items():
        check(values.keys() == _MOMENTS[type(optimizer)], f"its optimizer's parameter {i} lacks moments, or has others")
        for name, value in values.items():
            is_fitting = isinstance(value, Tensor) and (not value.ndim or value.shape == parameters[i].shape)
            check(is_fitting, f"the {name} of its optimizer's parameter {i} is not of the network's shape")
    optimizer.load_state_dict({"state": taken, "param_groups": own["param_groups"]})


def learning_rate(schedule: Schedule, total: int, base_lr: float, lr_mult: float, iteration: int) -> float:
    """Return a group's learning rate for one optimizer step (docs/protocol 6.2).

    Args:
        total: optimizer steps of the whole run.
        base_lr: learning rate of the recipe, before any group's factor.
        lr_mult: the group's factor; 1 gives the schedule's own value.
        iteration: step about to be made, 0 to total - 1.
    """
    is_global = schedule.family == "S"  # one rate for all groups, floor included, multiplied at the end
    rate = base_lr if is_global else base_lr * lr_mult
    if schedule.kind == "step":
        rate *= schedule.gamma ** (iteration // schedule.step)
    else:
        rate = (rate - schedule.min_lr) * (1 - iteration / total) ** schedule.power + schedule.min_lr
    rate *= _warmup_factor(schedule, iteration)
    return rate * lr_mult if is_global else rate


def _warmup_factor(schedule: Schedule, iteration: int) -> float:
    """Return what the warmup multiplies the decaying rate by; 1 after it."""
    length, ratio = schedule.warmup, schedule.warmup_ratio
    last = length if schedule.family == "S" else length - 1  # S counts one step more, which a jump shows
    if length == 0 or iteration > last:
        return 1.0
    if schedule.warmup_kind == "constant":
        return ratio
    remaining = 1 - iteration / length
    return ratio**remaining if schedule.warmup_kind == "exp" else 1 - remaining * (1 - ratio)


def set_learning_rate(
    optimizer: torch.optim.Optimizer, schedule: Schedule, total: int, base_lr: float, iteration: int
) -> None:
    """Set every group's learning rate for the optimizer step about to be made."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(schedule, total, base_lr, group["lr_mult"], iteration)


class ExponentialAverage:
    """Exponential moving average of a model's weights and running statistics.

    average <- decay * average + (1 - decay) * current, starting from the weights at construction. Integer tensors
    (counters) are left to the model.

    Args:
        model: not wrapped by DDP or torch.compile, so that names are the checkpoint's.
        decay: in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._average = get_ema_multi_avg_fn(decay)  # one fused call for all tensors
        self.tensors: dict[str, Tensor] = {
            name: tensor.detach().clone() for name, tensor in model.state_dict().items() if tensor.is_floating_point()
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step towards the model's current weights; call it after every optimizer step."""
        current = model.state_dict()
        self._average(list(self.tensors.values()), [current[name] for name in self.tensors], 0)

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Give the model the averaged weights inside the `with` block, and its own back after it."""
        own = {name: model.state_dict()[name].clone() for name in self.tensors}
        _overwrite(model, self.tensors)
        try:
            yield
        finally:
            _overwrite(model, own)

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the model's state dict with the averages in place of its own values."""
        return {**model.state_dict(), **self.tensors}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages by name (the tensors themselves, not copies)."""
        return dict(self.tensors)

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the averages of `state_dict`.

        Raises:
            InputError: if the names are not those of this model.
        """
        if set(tensors) != set(self.tensors):
            raise InputError("the saved moving average belongs to another model; resume with the recipe of its run")
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])


@torch.no_grad()
def _overwrite(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    state = model.state_dict()
    for name, tensor in tensors.items():
        state[name].copy_(tensor)
