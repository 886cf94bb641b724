"""Training states: what a resumed run needs, one file each, named by the iteration."""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from segcore.errors import InputError
from segcore.files import atomic_write
from segcore.weights.torch_files import STATE_FORMAT, read_torch_file

_STATE_NAME = re.compile(r"state-(\d{8,})\.pt")
log = logging.getLogger(__name__)


def state_path(folder: str | Path, iteration: int) -> Path:
    """Return where the training state after `iteration` optimizer steps belongs."""
    return Path(folder, f"state-{iteration:08d}.pt")


def save_state(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write a training state of tensors and plain containers.

    Raises:
        InputError: if it cannot be written; a previous file of that name stays whole.
    """
    with atomic_write(Path(path)) as file:
        torch.save({"format": STATE_FORMAT, "state": dict(state)}, file)


def load_state(path: str | Path) -> dict[str, Any]:
    """Read a training state, on the CPU.

    Raises:
        InputError: if the file is absent, truncated or no training state.
    """
    content = read_torch_file(Path(path))
    if not isinstance(content, dict) or content.get("format") != STATE_FORMAT:
        raise InputError(f"{path} is no training state (state-*.pt); start from weights with --load-from")
    return content["state"]


def latest_state(folder: str | Path) -> Path | None:
    """Return the newest training state that is whole; announces each damaged one that it passes over."""
    for path in reversed(_states(Path(folder))):
        if _is_whole(path):
            return path
        log.warning("%s is damaged; trying the state before it", path)
    return None


def prune_states(folder: str | Path, keep: int) -> None:
    """Delete all but the newest `keep` training states, and unfinished files of a killed run."""
    for path in _states(Path(folder))[:-keep]:
        path.unlink()
    for path in Path(folder).glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _states(folder: Path) -> list[Path]:
    found = [(int(match[1]), path) for path in folder.glob("state-*.pt") if (match := _STATE_NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def _is_whole(path: Path) -> bool:
    """Return whether the zip archive that torch wrote has its directory and all checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError):
        return False
