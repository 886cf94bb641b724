"""The folder of a run: one process group owns it, and a run never writes over another's files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from segcore.errors import InputError
from segcore.recipe import Run


def holds_run(path: Path) -> bool:
    """Return whether a run left something in a folder: a state, weights, or a line in its log."""
    log = path / "log.jsonl"
    is_logged = log.is_file() and log.stat().st_size > 0
    return is_logged or any(path.glob("state-*.pt")) or any(path.glob("*.safetensors"))


def continues(run: Run) -> bool:
    """Return whether a run goes on with an earlier one in its work directory."""
    from_own = bool(run.resume_from) and Path(run.resume_from).resolve().parent == Path(run.work_dir).resolve()
    return run.resume or from_own


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
        InputError: if there is no such file, or a line before the last is not JSON.
    """
    try:
        texts = [text for text in path.read_text("utf-8").splitlines() if text.strip()]
    except FileNotFoundError as error:
        raise InputError(f"there is no {path}; a report needs the log of a training run") from error
    entries: dict[tuple[str, int], dict[str, Any]] = {}
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            if number == len(texts):
                break
            raise InputError(f"{path}, line {number} is not JSON: {error}; remove the line") from error
        entries[line["mode"], line["iteration"]] = line
    return sorted(entries.values(), key=lambda line: line["iteration"])


def training_seconds(lines: Sequence[Mapping[str, Any]], batch: int) -> float:
    """Return the sum of the logged intervals; pauses between a run's parts and validations do not count."""
    seconds, before = 0.0, 0
    for line in lines:
        if line["mode"] == "train" and line.get("images_per_second"):
            seconds += (line["iteration"] - before) * batch / line["images_per_second"]
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

    def release(self) -> None:
        """Let another run use the folder."""
        self._lock.release()
