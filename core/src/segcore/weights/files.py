"""Our weights files: ONE file NAME.safetensors whose header holds a JSON text of what the network is."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from segcore import __version__
from segcore.errors import InputError
from segcore.files import atomic_write
from segcore.weights.header import META_ENTRY, SUFFIX, CheckpointMeta, damaged, parse_meta, require_checkpoint
from segcore.weights.names import NameMap, WrongShape
from segcore.weights.torch_files import read_published


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint in memory.

    Attributes:
        tensors: by OUR names where `meta` is given, else by published names.
        meta: of our files; None for a published one.
        published_meta: what a published file says about itself (CLASSES, iter, ...).
    """

    tensors: dict[str, Tensor]
    meta: CheckpointMeta | None
    path: Path
    published_meta: Mapping[str, Any] = field(default_factory=dict)


def run_versions() -> dict[str, str]:
    """Return the versions that a run depends on, and the git revision of the current folder if it has one."""
    versions = {
        "segcore": __version__,
        "torch": torch.__version__,
        "timm": version("timm"),
        "python": platform.python_version(),
    }
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git on this machine
        return versions
    return {**versions, "git": result.stdout.strip()} if result.returncode == 0 else versions


def save_weights(path: str | Path, state_dict: Mapping[str, Tensor], meta: CheckpointMeta) -> None:
    """Write a weights file; tensors that share memory are stored separately.

    Raises:
        InputError: if it cannot be written; a previous file of that name stays whole.
    """
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        own = tensor.detach().cpu().contiguous()
        storage = own.untyped_storage().data_ptr()
        tensors[name] = own.clone() if storage in seen else own
        seen.add(storage)
    header = {"format": "pt", META_ENTRY: json.dumps(asdict(meta))}
    with atomic_write(Path(path)) as file:
        file.write(safetensors.torch.save(tensors, header))


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
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except (safetensors.SafetensorError, OSError) as error:
        raise damaged(path, error) from error
    return LoadedCheckpoint(tensors, parse_meta(header, path), path)


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
