"""The folder of a run: one process group owns it, and a run never writes over another's files."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from filelock import FileLock, Timeout

from segcore.errors import InputError
from segcore.files import atomic_write
from segcore.recipe import Run

_LAUNCH = ".launch"
"""File of a work directory: the launch of torchrun that its run began with."""


def holds_run(path: Path) -> bool:
    """Return whether a run left something in a folder: a state, weights, or a line in its log."""
    log = path / "log.jsonl"
    is_logged = log.is_file() and log.stat().st_size > 0
    return is_logged or any(path.glob("state-*.pt")) or any(path.glob("*.safetensors"))


def continues(run: Run) -> bool:
    """Return whether a run goes on with an earlier one in its work directory."""
    from_own = bool(run.resume_from) and Path(run.resume_from).resolve().parent == Path(run.work_dir).resolve()
    return run.resume or from_own or is_restarted(run)


def is_restarted(run: Run) -> bool:
    """Return whether the launch of torchrun that the run in the folder began with has started this process again.

    It does so on its own when a process or a machine fails. A command that a person gives once more is another launch:
    whether it goes on is for --resume to say. --rdzv-id names a launch; without it, the process of torchrun does, and
    only what it says to have restarted counts.
    """
    named = os.environ.get("TORCHELASTIC_RUN_ID", "none") != "none"
    if not named and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return False
    try:
        return Path(run.work_dir, _LAUNCH).read_text("utf-8") == _launch()
    except (OSError, UnicodeDecodeError):
        return False


def _launch() -> str:
    """Return what names the launch of torchrun that this process belongs to; empty without torchrun."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return f"process {os.getppid()} of {platform.node()}" if name == "none" else name


def refuse_run(path: Path, option: str = "--work-dir") -> None:
    """Raise an `InputError` where a folder holds a run; `option` names it on the command line."""
    if holds_run(path):
        raise InputError(
            f"the work directory {path} already holds a run; --resume goes on with it, {option} starts another"
        )


class WorkDirectory:
    """A locked work directory.

    The lock is the process's own: it ends with the process, however that ends, and a forked loader process that
    outlives it does not hold the folder.

    Args:
        path: the folder; made where it does not exist.
        is_resuming: whether it may hold an earlier run.
        option: names the folder on the command line.

    Raises:
        InputError: if another process is running in it, if it holds an earlier run that is not resumed, or if it
            cannot be made.
    """

    def __init__(self, path: str | Path, is_resuming: bool, option: str = "--work-dir") -> None:
        self.path = Path(path)
        self._lock = FileLock(self.path / ".lock", blocking=False, thread_local=False)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise InputError(f"another run is using the work directory {path}; choose another {option}") from error
        except OSError as error:
            raise InputError(f"cannot use the work directory {path}: {error.strerror or error}") from error
        if not is_resuming:
            try:
                refuse_run(self.path, option)
            except InputError:
                self.release()
                raise

    def note_launch(self) -> None:
        """Note which launch of torchrun the run belongs to, for `is_restarted`.

        Raises:
            InputError: if it cannot be written.
        """
        if _launch():
            with atomic_write(self.path / _LAUNCH) as file:
                file.write(_launch().encode())

    def release(self) -> None:
        """Let another run use the folder."""
        self._lock.release()
