"""The folder of a run: one process group owns it, and a run never writes over another's files."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from segcore.errors import InputError
from segcore.recipe_file import FILE_NAME


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
        if (self.path / FILE_NAME).exists() and not is_resuming:
            self.release()
            raise InputError(
                f"the work directory {path} already holds a run; --resume goes on with it, --work-dir starts another"
            )

    def release(self) -> None:
        """Let another run use the folder."""
        self._lock.close()
