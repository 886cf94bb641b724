"""The folder of a run: one process group owns it, and a run never writes over another's files."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from segcore.errors import InputError

_LOCKS: set[IO[str]] = set()


def _let_go() -> None:
    """Close the locks in a forked child: a loader process that outlives a killed run must not hold its folder."""
    for lock in _LOCKS:
        lock.close()
    _LOCKS.clear()


os.register_at_fork(after_in_child=_let_go)


def holds_run(path: Path) -> bool:
    """Return whether a run left something in a folder: a state, weights, or a line in its log."""
    log = path / "log.jsonl"
    is_logged = log.is_file() and log.stat().st_size > 0
    return is_logged or any(path.glob("state-*.pt")) or any(path.glob("*.safetensors"))


class WorkDirectory:
    """A locked work directory.

    Args:
        path: the folder; made where it does not exist.
        is_resuming: whether an earlier run in it is to be continued.

    Raises:
        InputError: if another process is running in it, if it holds an earlier run that is not resumed, or if it
            cannot be made.
    """

    def __init__(self, path: str | Path, is_resuming: bool) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = open(self.path / ".lock", "w")  # noqa: SIM115 - held until `release`
        except OSError as error:
            raise InputError(f"cannot use the work directory {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise InputError(f"another run is using the work directory {path}; choose another --work-dir") from error
        _LOCKS.add(self._lock)
        if holds_run(self.path) and not is_resuming:
            self.release()
            raise InputError(
                f"the work directory {path} already holds a run; --resume goes on with it, --work-dir starts another"
            )

    def release(self) -> None:
        """Let another run use the folder."""
        _LOCKS.discard(self._lock)
        self._lock.close()
