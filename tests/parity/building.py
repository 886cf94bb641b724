"""What the papers' adapters share: inputs built from their descriptions, stages recorded, gradients and scores."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segcore.evaluation.inference import bands, interpolated, logit_map, unmirrored
from segcore.recipe import Evaluate
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.fill import image, labels
from tests.parity.formulas import evaluate
from tests.parity.inputs import make

IGNORE = 255
TIED_SHARE = 1e-3
"""Counts of predictions are compared up to this share of the pixels: rounding decides between equal scores."""


def settled(given: Mapping[str, Any], **facts: Any) -> None:
    """Check what a case may say about the reference but ours has in one form only; absent entries are as here.

    Raises:
        ValueError: if the case wants another form.
    """
    for name, ours in facts.items():
        if name in given and (said := given[name]) != ours:
            raise ValueError(f"the case has {name} = {said!r}; ours knows {ours!r} only")


def one_of(said: str, *choices: str) -> Any:
    """Return a word of a case.

    Raises:
        ValueError: if it is none that ours knows.
    """
    if said not in choices:
        raise ValueError(f"the case says {said!r}; ours knows {', '.join(choices)}")
    return said


def labelled(case: ParityCase, comparisons: Iterator[Comparison]) -> Iterator[Comparison]:
    """Put what the case calls itself, `variant`, before the names of its values."""
    for comparison in comparisons:
        yield replace(comparison, name=f"{case.data['variant']}: {comparison.name}")


def tensor(given: Mapping[str, Any]) -> Tensor:
    """Return a Gaussian input of `shape` and `seed`, float32."""
    return torch.from_numpy(image(tuple(given["shape"]), given["seed"]))


def drawn(given: Mapping[str, Any]) -> Tensor:
    """Return an input of `shape` whose `recipe` names numpy's generator, float32."""
    seed, kind = re.findall(r"RandomState\((\d+)\)\.(randn?)\b", given["recipe"])[0]
    values = evaluate(f"RandomState({seed}).{kind}(*shape)", shape=given["shape"])
    return torch.from_numpy(values.astype(np.float32))


def array(call: Mapping[str, Any]) -> np.ndarray:
    """Return the array of a generator call `{generator: arguments}`."""
    (generator,) = call
    return make({generator: call[generator]})


def label(given: Mapping[str, Any], shape: tuple[int, ...] | None = None) -> Tensor:
    """Return labels (B, H, W) int64 of `shape`, `num_classes`, `ignore` and `seed`, 255 where the case ignores."""
    shape = shape or tuple(given["shape"])
    return ignored_as_255(labels(shape, given["num_classes"], given["ignore"], given["seed"]), given["ignore"])


def ignored_as_255(label: np.ndarray, ignore: int) -> Tensor:
    """Return a label as ours are: 255 where the case has its own value for ignored pixels."""
    if ignore != IGNORE and (label == IGNORE).any():
        raise ValueError(f"the label has pixels of {IGNORE}, which the case, unlike ours, does not ignore")
    return torch.from_numpy(np.where(label == ignore, IGNORE, label))


def count(*modules: nn.Module | None) -> int:
    """Return how many parameters modules have."""
    return sum(parameter.numel() for module in modules if module is not None for parameter in module.parameters())


def record(stages: Mapping[str, nn.Module], inputs: Mapping[str, nn.Module] | None = None) -> dict[str, Any]:
    """Return a dictionary that the next forward passes fill with the stages' first outputs, copied.

    Args:
        inputs: of these modules the first input is kept.
    """
    values: dict[str, Any] = {}

    def keep(name: str, value: Any) -> None:
        if name not in values:
            values[name] = _copied(value)

    def keep_output(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _inputs, output: keep(name, output)

    def keep_input(name: str) -> Callable[[nn.Module, Any], None]:
        return lambda _module, given: keep(name, given[0])

    for name, module in stages.items():
        module.register_forward_hook(keep_output(name))
    for name, module in (inputs or {}).items():
        module.register_forward_pre_hook(keep_input(name))
    return values


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return [_copied(part) for part in value] if isinstance(value, (list, tuple)) else value


def gradient_norms(module: nn.Module, published: Callable[[str], str]) -> dict[str, float]:
    """Return the L2 norms of a module's gradients by the tensors' published names; parameters without are left out."""
    parameters = [(name, p.grad) for name, p in module.named_parameters()]
    return {published(name): float(grad.norm()) for name, grad in parameters if grad is not None}


def compare_norms(norms: Mapping[str, float], published: Mapping[str, Any], **limits: float) -> Iterator[Comparison]:
    """Yield every gradient norm that a case lists."""
    for name in published:
        yield Comparison(f"gradient norm of {name}", norms[name], published[name], **limits)


def convolution(weight: np.ndarray, bias: np.ndarray, stride: int, padding: int) -> nn.Conv2d:
    """Return the network of the inference cases."""
    model = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[-1], stride, padding)
    model.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    return model.eval()


@torch.no_grad()
def scores(
    model: nn.Module, images: Tensor, protocol: Evaluate, size: tuple[int, int], valid: tuple[int, int] | None = None
) -> Tensor:
    """Return what the protocol makes of network inputs, at `size`; each image of the batch on its own.

    Args:
        valid: height and width of the input that is not padding.

    Shapes:
        images (B, 3, H, W) -> (B, K, *size)
    """
    parts = [logit_map(model, single[None], protocol, valid) for single in images]
    return torch.stack([torch.cat([band for _, band in bands([part], size, protocol)], dim=1) for part in parts])


@torch.no_grad()
def family_s(
    model: nn.Module, images: Tensor, protocol: Evaluate, size: tuple[int, int]
) -> tuple[list[Tensor], Tensor]:
    """Return every view's scores, mirrored back, and their mean at `size`; each image of the batch on its own.

    Shapes:
        images (B, 3, H, W) -> [(B, K, h, w), ...] in the order (ratio, plain / mirrored), (B, K, *size)
    """
    views: list[list[Tensor]] = []
    means: list[Tensor] = []
    for single in images:
        seen = [interpolated(single[None], ratio) for ratio in protocol.ratios]
        pairs = [torch.cat([view, view.flip(-1)]) if protocol.flip else view for view in seen]
        maps = [logit_map(model, pair, protocol) for pair in pairs]
        views.append([])
        for scored in maps:
            plain, *mirrored = scored.full()
            views[-1] += [plain, *(unmirrored(part, protocol.flip_pairs) for part in mirrored)]
        total = torch.cat([band for _, band in bands(maps, size, protocol)], dim=1)
        means.append(total / len(views[-1]))
    return [torch.stack(entry) for entry in zip(*views, strict=True)], torch.stack(means)


def prediction_counts(mean: Tensor) -> Tensor:
    """Return how many pixels of a batch (B, K, H, W) have each class, (K,)."""
    return torch.bincount(mean.argmax(dim=1).flatten(), minlength=mean.shape[1])
