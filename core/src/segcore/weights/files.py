"""Our weights files: ONE file NAME.safetensors whose header holds a JSON text of what the network is."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from segcore.errors import InputError
from segcore.files import atomic_write
from segcore.weights.checksums import BLANK, ENTRY, compare, say_unsealed, sealed
from segcore.weights.header import META_ENTRY, SUFFIX, CheckpointMeta, damaged, parse_meta, require_checkpoint
from segcore.weights.names import NameMap, WrongShape
from segcore.weights.revision import git_revision
from segcore.weights.torch_files import DAMAGED, read_published

_LEFT_OVER = "published/"  # no tensor of a network has a slash in its name


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint in memory.

    Attributes:
        tensors: by OUR names where `meta` is given, else by published names.
        meta: of our files; None for a published one.
        published_meta: what a published file says about itself (CLASSES, iter, ...).
        left_over: in a file of ours that was converted, published tensors that the network has no use for.
    """

    tensors: dict[str, Tensor]
    meta: CheckpointMeta | None
    path: Path
    published_meta: Mapping[str, Any] = field(default_factory=dict)
    left_over: Mapping[str, Tensor] = field(default_factory=dict)


def run_versions() -> dict[str, str]:
    """Return the versions that a run depends on, and the git revision of the current folder if it has one."""
    versions = {
        "segcore": version("segcore"),
        "torch": torch.__version__,
        "timm": version("timm"),
        "python": platform.python_version(),
    }
    revision = git_revision(Path())
    return {**versions, "git": revision} if revision else versions


def save_weights(
    path: str | Path,
    state_dict: Mapping[str, Tensor],
    meta: CheckpointMeta,
    left_over: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Write a weights file with its checksum; tensors that share memory are stored separately.

    Args:
        left_over: tensors of a published file that the network has no use for, see `NameMap.left_over`.

    Raises:
        InputError: if it cannot be written; a previous file of that name stays whole.
    """
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in {**state_dict, **{_LEFT_OVER + name: t for name, t in left_over.items()}}.items():
        own = tensor.detach().cpu().contiguous()
        storage = own.untyped_storage().data_ptr()
        tensors[name] = own.clone() if storage in seen else own
        seen.add(storage)
    header = {"format": "pt", META_ENTRY: json.dumps(asdict(meta)), ENTRY: BLANK}
    parts = sealed(safetensors.torch.save(tensors, header))
    with atomic_write(Path(path)) as file:
        for part in parts:
            file.write(part)


def read_checkpoint(path: str | Path, *, unsafe: bool = False) -> LoadedCheckpoint:
    """Read weights: ours (.safetensors) or a published file of `torch.save`.

    Args:
        unsafe: unpickle a published file without restriction, see `read_torch_file`.

    Raises:
        InputError: if the file is absent, truncated, damaged, no checkpoint, or would run code.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        published = read_published(path, unsafe=unsafe)
        return LoadedCheckpoint(published.tensors, None, path, published.meta)
    require_checkpoint(path)
    seal = compare(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except (safetensors.SafetensorError, OSError, *DAMAGED) as error:
        raise damaged(path, error) from error
    meta = parse_meta(header, path)
    if meta is None:
        return LoadedCheckpoint(tensors, None, path)
    if not seal:
        say_unsealed(path)
    left_over = {name.removeprefix(_LEFT_OVER): tensors.pop(name) for name in [*tensors] if name.startswith(_LEFT_OVER)}
    return LoadedCheckpoint(tensors, meta, path, left_over=left_over)


def load_into(
    model: nn.Module,
    loaded: LoadedCheckpoint,
    name_map: NameMap,
    *,
    fine_tune: bool = False,
    classifiers: Sequence[str] = (),
) -> list[str]:
    """Load a checkpoint into a network; every tensor must fit.

    Args:
        name_map: of published names; not used for files of ours.
        fine_tune: leave tensors of the classifier at their initial values where the file has another class number.
        classifiers: prefixes of OUR names that depend on the class number; by default, the model's own.

    Returns:
        Our names of the tensors that kept their initial values.

    Raises:
        InputError: for a checkpoint of another model, or (unless `fine_tune`) of another class number.
    """
    found = (NameMap() if loaded.meta else name_map).match(model, loaded.tensors)
    prefixes = tuple(classifiers) or tuple(getattr(model, "classifiers", ()))
    by_classes = [wrong for wrong in found.wrong_shapes if wrong.name.startswith(prefixes)]
    if found.missing or found.unexpected or len(by_classes) < len(found.wrong_shapes):
        origin = f" ({loaded.meta.paper} {loaded.meta.recipe_name})" if loaded.meta else ""
        raise InputError(
            f"{loaded.path} is a checkpoint of another model{origin}: {found.problem()}; "
            "give the recipe and the --model options that it was trained with"
        )
    if by_classes and not fine_tune:
        raise InputError(_other_classes(loaded.path, by_classes, getattr(model, "num_classes", None)))
    model.load_state_dict(found.tensors, strict=False)  # strictness was checked above, with better words
    return [wrong.name for wrong in by_classes]


def _other_classes(path: Path, by_classes: Sequence[WrongShape], num_classes: int | None) -> str:
    for _, ours, theirs in by_classes:
        for own, other in zip(ours, theirs, strict=False):
            if own == num_classes and other != own:
                return (
                    f"{path} was trained for {other} classes, the data set here has {own}; choose the data set it was "
                    "trained for, or train from it with --load-from"
                )
    name, ours, theirs = by_classes[0]
    return f"{path} was trained for other classes: {name} is {list(theirs)}, not {list(ours)}; choose its data set"
