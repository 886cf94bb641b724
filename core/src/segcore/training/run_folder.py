"""The folder of a run: one process group owns it, and a run never writes over another's files."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from segcore.errors import InputError
from segcore.files import atomic_write, reading
from segcore.recipe import Run

_MANY = 1e18
"""More than any count, time or loss in a log."""
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


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log.jsonl by iteration; of a line logged twice (a resumed run) the later one counts.

    A last line that was cut by a killed process is left out.

    Raises:
        InputError: if there is no such file, or a line before the last is none of a log.
    """
    if not path.exists():
        raise InputError(f"there is no {path}; a report needs the log of a training run")
    with reading(path):
        texts = [text for text in path.read_bytes().split(b"\n") if text.strip()]
    entries: dict[tuple[str, int], dict[str, Any]] = {}
    for number, text in enumerate(texts, start=1):
        try:
            line = _log_entry(text)
        except (ValueError, RecursionError) as error:
            if number == len(texts):
                break
            raise InputError(f"{path}, line {number} is no line of a log ({error}); remove the line") from error
        entries[line["mode"], line["iteration"]] = line
    return sorted(entries.values(), key=lambda line: line["iteration"])


def _log_entry(text: bytes) -> dict[str, Any]:
    """Return a line of log.jsonl: its mode, its iteration, and numbers.

    Raises:
        ValueError, RecursionError: for anything else.
    """
    line = json.loads(text)
    if not isinstance(line, dict) or line.get("mode") not in ("train", "val"):
        raise ValueError("it has no mode train or val")
    iteration = line.get("iteration")
    if type(iteration) is not int or not 0 <= iteration < _MANY:
        raise ValueError("its iteration is no number of steps")
    values = {name: value for name, value in line.items() if name not in ("mode", "iteration")}
    wrong = [name for name, value in values.items() if value is not None and type(value) not in (int, float)]
    if wrong or any(value is not None and not abs(value) < _MANY for value in values.values()):
        raise ValueError(f"its {wrong[0]} is no number" if wrong else "a number of it is beyond all reason")
    return line


def training_seconds(lines: Sequence[Mapping[str, Any]], batch: int) -> float:
    """Return the sum of the logged intervals; pauses between a run's parts and validations do not count."""
    seconds, before = 0.0, 0
    for line in lines:
        rate = line.get("images_per_second") or 0
        if line["mode"] == "train" and rate > 1e-6:
            seconds += (line["iteration"] - before) * batch / rate
            before = line["iteration"]
    return seconds


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
