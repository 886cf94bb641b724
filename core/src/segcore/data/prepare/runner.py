"""Writing of many label (or other) files: on all cores, with progress, restartable, never over a file that exists."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segcore.errors import InputError
from segcore.opencv import cv2

_PNG_END = b"IEND\xaeB`\x82"
_CHUNK = 8  # files per task of a worker
_AHEAD = 3  # tasks under way per worker; the rest stays in the parent, so memory does not grow


class Counts(NamedTuple):
    """What a run did: files written, and files that were there already."""

    written: int
    kept: int
    seconds: float


def available_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_whole_png(path: Path) -> bool:
    """Tell whether a file ends as a PNG does; one cut off by a full disk or another tool does not."""
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(length - len(_PNG_END), 0))
        return file.read() == _PNG_END


def encode_png(label: np.ndarray) -> bytes:
    """Return a label map (H, W) uint8 as 8-bit gray PNG."""
    _, data = cv2.imencode(".png", label)  # four times as fast as Pillow, 15 % larger
    return data.tobytes()


class FileFormat(NamedTuple):
    """How results are written; encode and is_whole are functions of a module, which a worker process can import."""

    title: str
    """Name for people."""
    encode: Callable[[Any], bytes]
    """Result of a job -> content of its file."""
    is_whole: Callable[[Path], bool]
    """Whether a file that exists was written to its end."""


PNG = FileFormat("PNG", encode_png, is_whole_png)


class Job(NamedTuple):
    """One file to write: `make(*arguments)` gives what its format encodes, for a PNG the map (H, W) uint8.

    make is a function of a module, which a worker process can import; it raises InputError for unusable sources.
    """

    path: Path
    make: Callable[..., Any]
    arguments: tuple[Any, ...]
    form: FileFormat = PNG


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whose name appears only once it is whole."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_list(path: Path, stems: Sequence[str], *, force: bool) -> None:
    """Write a list of stems, one per line; a file with the same content is left alone.

    Raises:
        InputError: if it exists with other content and force is off, or cannot be written.
    """
    text = "".join(f"{stem}\n" for stem in stems)
    check_list(path, stems, force=force)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, "utf-8")
        partial.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def check_list(path: Path, stems: Sequence[str], *, force: bool) -> None:
    """Refuse to replace a list that names other images.

    Raises:
        InputError: if the list exists with other stems and force is off.
    """
    if not force and path.is_file() and path.read_text("utf-8").split() != list(stems):
        raise InputError(f"{path} exists and names other images; pass --force to replace it, or move it away")


def run_jobs(jobs: Sequence[Job], title: str, *, processes: int = 0, force: bool = False) -> Counts:
    """Write what is missing.

    Args:
        title: what the progress bar says.
        processes: worker processes; 0 takes all cores, 1 works in this process.
        force: write over files that exist.

    Raises:
        InputError: at the first source that cannot be used or file that cannot be written, and if one exists that is
            not whole. What was written so far stays, and the next run goes on from there.
    """
    # Only the parent shows progress: workers start sooner without this import.
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from segcore.console import PlainConsole

    started = time.perf_counter()
    missing = list(jobs) if force else _missing(jobs)
    for folder in {job.path.parent for job in missing}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    count = min(processes or available_cores(), -(-len(missing) // _CHUNK))
    chunks = (missing[start : start + _CHUNK] for start in range(0, len(missing), _CHUNK))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = PlainConsole(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=len(jobs), completed=len(jobs) - len(missing))
        modules = {job.make.__module__ for job in missing}
        for number, fault in _in_processes(chunks, count, modules) if count > 1 else map(_run_chunk, chunks):
            progress.advance(task, number)
            if fault:
                raise InputError(fault)
    return Counts(len(missing), len(jobs) - len(missing), time.perf_counter() - started)


def _missing(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs whose file does not exist, by one listing per folder: look-ups are slow on network disks."""
    listings: dict[Path, set[str]] = {}
    missing: list[Job] = []
    for job in jobs:
        folder = job.path.parent
        if folder not in listings:
            listings[folder] = set(os.listdir(folder)) if folder.is_dir() else set()
        if job.path.name not in listings[folder]:
            missing.append(job)
        elif not job.form.is_whole(job.path):
            title = job.form.title
            raise InputError(f"{job.path} exists but is no whole {title}; remove it, or pass --force to write it again")
    return missing


def _run_chunk(jobs: Sequence[Job]) -> tuple[int, str]:
    """Run some jobs; returns how many are done, and the sentence of the one that failed, if any.

    The sentence travels instead of the exception, because not every exception can be pickled.
    """
    for done, job in enumerate(jobs):
        try:
            write_whole(job.path, job.form.encode(job.make(*job.arguments)))
        except InputError as error:
            return done, str(error)
        except OSError as error:
            return done, f"cannot write {job.path}: {error.strerror or error}; the next run goes on from here"
    return len(jobs), ""


def _quiet_worker() -> None:
    """Leave Ctrl-C to the parent, which stops its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _in_processes(chunks: Iterable[Sequence[Job]], count: int, modules: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Run chunks of jobs in worker processes, in any order, with a few under way at a time.

    Workers are not forked from this process, which has threads (progress bar, perhaps torch) whose locks a fork would
    copy, but from a server that imports the jobs' functions once, or are started anew where there is no such server.

    Args:
        modules: where the jobs' functions are.
    """
    has_server = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if has_server else "spawn")
    if has_server:
        context.set_forkserver_preload(["__main__", *modules])
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_quiet_worker)
    remaining = iter(chunks)
    pending: set[Future[tuple[int, str]]] = set()
    try:
        while True:
            pending |= {pool.submit(_run_chunk, chunk) for chunk in islice(remaining, _AHEAD * count - len(pending))}
            if not pending:
                return
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process was ended from outside (out of memory?); run again with fewer --processes, finished "
            "files are kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
