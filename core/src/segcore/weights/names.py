"""Between our tensor names and the published ones: one declarative map per paper, applied strictly."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from segcore.errors import InputError

Shapes = Mapping[str, tuple[int, ...]]
"""Published tensor name -> shape: what a checkpoint tells before it is loaded."""

_LISTED = 10
_COUNTER = "num_batches_tracked"  # kept by newer norms only, and read by none of ours


class Transform(NamedTuple):
    """Other values for the same tensor, e.g. the column order of Swin's patch merging.

    Attributes:
        pattern: regular expression, matched in full against the published name.
        to_ours, to_published: the two directions, each the other's inverse.
    """

    pattern: str
    to_ours: Callable[[Tensor], Tensor]
    to_published: Callable[[Tensor], Tensor]


class Companion(NamedTuple):
    """A tensor that published files have beside another one, and that ours compute or have no use for.

    Attributes:
        pattern, replacement: `re.sub` that makes its name of the other's published name.
        values: our module that holds the other one -> what published files have.
    """

    pattern: str
    replacement: str
    values: Callable[[Any], Tensor]


class WrongShape(NamedTuple):
    """A tensor that exists on both sides with different shapes."""

    name: str
    ours: tuple[int, ...]
    theirs: tuple[int, ...]


@dataclass(frozen=True)
class Match:
    """A file's tensors laid beside a model's.

    Attributes:
        tensors: our name -> the file's values in our shape.
        missing: published names that the model needs and the file lacks.
        unexpected: names in the file that the model has no tensor for.
        wrong_shapes: tensors of another shape, by our names.
    """

    tensors: dict[str, Tensor]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shapes: tuple[WrongShape, ...]

    def problem(self) -> str:
        """Return what does not fit, with counts and the first names; empty where everything fits."""
        shapes = [f"{name} is {list(theirs)}, not {list(ours)}" for name, ours, theirs in self.wrong_shapes]
        parts = [
            f"{len(names)} {kind} ({_first(names)})"
            for kind, names in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("of another shape", shapes),
            )
            if names
        ]
        return ", ".join(parts)


@dataclass(frozen=True)
class NameMap:
    """Published tensor names of a model; without arguments, the identity.

    Attributes:
        renames: (regular expression on OUR name, replacement), applied one after the other with `re.sub`; the result
            is the published name.
        dropped: regular expressions, matched in full, of published names that may have no tensor of ours.
        transforms: tensors whose values or shapes differ, too.
        companions: published tensors that ours have no tensor for.
        ours_only: regular expressions, matched in full, of OUR names that no published file has.
        container: entry of a published file that holds the tensors.
    """

    renames: tuple[tuple[str, str], ...] = ()
    dropped: tuple[str, ...] = ()
    transforms: tuple[Transform, ...] = ()
    companions: tuple[Companion, ...] = ()
    ours_only: tuple[str, ...] = ()
    container: str = "state_dict"

    def with_renames(self, *renames: tuple[str, str]) -> NameMap:
        """Return the map with more renames after its own: that of a network around a backbone."""
        return replace(self, renames=(*self.renames, *renames))

    def to_published(self, name: str) -> str:
        """Return the published name of one of our tensors."""
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name

    def match(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> Match:
        """Lay published tensors beside a model's, without judging.

        Counters of norms may be absent on either side; shapes that differ by trailing ones only are reshaped.
        """
        found: dict[str, Tensor] = {}
        missing: list[str] = []
        wrong_shapes: list[WrongShape] = []
        claimed: dict[str, str] = {}
        for name, own in model.state_dict().items():
            if _matches(self.ours_only, name):
                continue
            published = self.to_published(name)
            assert published not in claimed, f"{name} and {claimed[published]} are both called {published}"
            claimed |= {published: name, **dict.fromkeys(self._companions(published), name)}
            if published not in tensors:
                if not published.endswith(_COUNTER):
                    missing.append(published)
                continue
            value = self._transform(published, tensors[published])
            if _without_trailing_ones(value.shape) == _without_trailing_ones(own.shape):
                found[name] = value.reshape(own.shape)
            else:
                wrong_shapes.append(WrongShape(name, tuple(own.shape), tuple(value.shape)))
        unexpected = [name for name in tensors if name not in claimed and not self._may_be_left_over(name)]
        return Match(found, tuple(missing), tuple(unexpected), tuple(wrong_shapes))

    def convert(
        self, model: nn.Module, tensors: Mapping[str, Tensor], *, allow: Collection[str] = ()
    ) -> dict[str, Tensor]:
        """Return published tensors by our names and in our shapes.

        Args:
            allow: prefixes of OUR names; tensors under them whose shape differs are left out instead of refused.

        Raises:
            InputError: if anything is missing, unexpected or of another shape; it lists the first names of each.
        """
        found = self.match(model, tensors)
        refused = tuple(w for w in found.wrong_shapes if not w.name.startswith(tuple(allow)))
        problem = Match({}, found.missing, found.unexpected, refused).problem()
        if problem:
            raise InputError(f"the tensors are not those of this model: {problem}")
        return found.tensors

    def export(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the tensors of a published file of this model: by its names, in its shapes."""
        tensors: dict[str, Tensor] = {}
        for name, tensor in model.state_dict().items():
            if _matches(self.ours_only, name):
                continue
            published = self.to_published(name)
            tensors[published] = self._transform(published, tensor.detach(), to_ours=False)
            module = model.get_submodule(name.rpartition(".")[0])
            for beside, companion in self._companions(published).items():
                tensors[beside] = companion.values(module)
        return tensors

    def left_over(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a published file that the model loaded from it would not give back in an export."""
        exported = self.export(model)
        own = {self.to_published(name) for name in model.state_dict()}
        return {name: value for name, value in tensors.items() if name not in own and not _equal(exported, name, value)}

    def _companions(self, published: str) -> dict[str, Companion]:
        """Return what stands beside a published tensor, by published names."""
        return {
            re.sub(companion.pattern, companion.replacement, published): companion
            for companion in self.companions
            if re.search(companion.pattern, published)
        }

    def _transform(self, published: str, tensor: Tensor, *, to_ours: bool = True) -> Tensor:
        for transform in self.transforms:
            if re.fullmatch(transform.pattern, published):
                tensor = transform.to_ours(tensor) if to_ours else transform.to_published(tensor)
        return tensor

    def _may_be_left_over(self, published: str) -> bool:
        return published.endswith(_COUNTER) or _matches(self.dropped, published)


def _matches(patterns: Sequence[str], name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _equal(exported: Mapping[str, Tensor], name: str, value: Tensor) -> bool:
    ours = exported.get(name)
    return ours is not None and ours.dtype == value.dtype and torch.equal(ours.cpu(), value.cpu())


def count_parts(shapes: Shapes, prefix: str) -> int:
    """Return how many different parts follow a prefix of the names: blocks, layers, rows."""
    return len({name.removeprefix(prefix).split(".")[0] for name in shapes if name.startswith(prefix)})


def no_head(head: str, shapes: Shapes) -> InputError:
    """Return the error of a checkpoint without this head (its name, and its tensors that are missing)."""
    first = ", ".join(list(shapes)[:3]) or "nothing"
    return InputError(f"the checkpoint has no {head}; it starts with {first}")


def _without_trailing_ones(shape: torch.Size) -> tuple[int, ...]:
    """Return (C,) for (C, 1, 1): what tells a vector from a matrix without caring how it broadcasts."""
    sizes = list(shape)
    while sizes and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def _first(names: Sequence[str]) -> str:
    listed = ", ".join(names[:_LISTED])
    return listed if len(names) <= _LISTED else f"{listed}, and {len(names) - _LISTED} more"
