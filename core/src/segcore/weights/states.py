"""Training states: what a resumed run needs, one file each, named by the iteration."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from segcore.errors import InputError
from segcore.files import atomic_write
from segcore.weights.checksums import SealedWriter
from segcore.weights.torch_files import STATE_FORMAT, is_state, read_torch_file

_STATE_NAME = re.compile(r"state-(\d{8,})\.pt")
# what `atomic_write` calls the files that only the run in this folder writes
_UNFINISHED = re.compile(r"\.(state-\d{8,}\.pt|(best|last)\.safetensors)\.\d+(\.\w+)?\.tmp")
log = logging.getLogger(__name__)


class SavedState(NamedTuple):
    """A training state and the file it came from."""

    path: Path
    content: dict[str, Any]


def state_path(folder: str | Path, iteration: int) -> Path:
    """Return where the training state after `iteration` optimizer steps belongs."""
    return Path(folder, f"state-{iteration:08d}.pt")


def save_state(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write a training state of tensors and plain containers, with its checksum.

    Raises:
        InputError: if it cannot be written; a previous file of that name stays whole.
    """
    with atomic_write(Path(path)) as file:
        sealed = SealedWriter(file)
        torch.save({"format": STATE_FORMAT, "state": dict(state)}, sealed)  # pyright: ignore[reportArgumentType]
        sealed.seal()


def load_state(path: str | Path) -> dict[str, Any]:
    """Read a training state, on the CPU.

    Raises:
        InputError: if the file is absent, truncated, damaged or no training state.
    """
    content = read_torch_file(Path(path))
    if not is_state(content) or not isinstance(content["state"], dict):
        raise InputError(f"{path} is no training state (state-*.pt); start from weights with --load-from")
    return content["state"]


def state_files(folder: str | Path) -> dict[int, Path]:
    """Return the training states in a folder by their iteration, whole or not, the oldest first."""
    names = ((_STATE_NAME.fullmatch(path.name), path) for path in Path(folder).glob("state-*.pt"))
    return dict(sorted((int(match[1]), path) for match, path in names if match))


def whole_states(folder: str | Path) -> Iterator[SavedState]:
    """Yield the training states in a folder, the newest first; announces each damaged one that it passes over."""
    for path in reversed(state_files(folder).values()):
        try:
            yield SavedState(path, load_state(path))
        except InputError as error:
            log.warning("%s; passing over this state", error)


def latest_state(folder: str | Path) -> SavedState | None:
    """Return the newest training state that is whole; None where there is no state at all.

    Raises:
        InputError: if there are states and each one is damaged.
    """
    found = next(whole_states(folder), None)
    names = ", ".join(path.name for path in state_files(folder).values())
    if found is None and names:
        raise InputError(
            f"every training state in {folder} is damaged ({names}); bring back a whole one, or start from the weights "
            "with --load-from in another --work-dir"
        )
    return found


def prune_states(folder: str | Path, keep: int, iteration: int) -> None:
    """Delete all but the newest `keep` training states, and what a killed run left unfinished.

    Args:
        iteration: of the state just written. Later ones are damaged, since the run went on from an earlier one: they
            count for nothing and stay until they are written anew.
    """
    written = [path for number, path in state_files(folder).items() if number <= iteration]
    for path in written[:-keep]:
        path.unlink()
    for path in Path(folder).iterdir():
        if _UNFINISHED.fullmatch(path.name) and not path.is_dir():
            path.unlink(missing_ok=True)
