"""What a training run says: progress bar or lines, log.txt, log.jsonl, and whatever trackers are asked for.

Only the first process talks; the others hold a `NullLogger` with the same methods.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import platform
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from segcore.console import PlainConsole, printable
from segcore.files import atomic_write, open_to_append, reading, writing
from segcore.training.trackers import Sink, open_tracker

_PACKAGE = logging.getLogger("segcore")


class _Stream:
    """A file that grows as a run goes on: what is written to it is with the system when `write` returns.

    Raises:
        InputError: where the folder or the disk refuses.
    """

    def __init__(self, path: Path, mode: Literal["a", "x"]) -> None:
        self._path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open_to_append(path, mode)

    def write(self, data: bytes) -> None:
        """Write at the end."""
        with writing(self._path):
            self._file.write(data)
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # only what `write` has complained of is left
            self._file.close()


class JsonLines:
    """log.jsonl: one object per line, in the order of events; NaN becomes null.

    Args:
        start: iteration that the run goes on from; what an interrupted run wrote beyond it is removed.
        is_validated: whether the validation after `start` is done; else its line is removed, since it comes again.
    """

    def __init__(self, path: Path, start: int, is_validated: bool = True) -> None:
        if path.is_file():
            with reading(path):
                *lines, cut = path.read_bytes().split(b"\n")  # a killed process was writing the last one
            kept = [line for line in lines if _is_before(line, start, is_validated)]
            kept += [cut] if _is_before(cut, start, is_validated, is_cut=True) else []
            with atomic_write(path) as file:
                file.write(b"".join(line + b"\n" for line in kept))
        self._stream = _Stream(path, "a")

    def scalars(self, mode: str, iteration: int, values: Mapping[str, float]) -> None:
        """Append one line."""
        known = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = {"mode": mode, "iteration": iteration, **known, "time": round(time.time(), 3)}
        self._stream.write(f"{json.dumps(line)}\n".encode())

    def picture(self, name: str, picture: np.ndarray, iteration: int) -> None:
        """Pictures have no place in a text file."""

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def _is_before(line: bytes, start: int, is_validated: bool, is_cut: bool = False) -> bool:
    """Return whether a line stays; one that was damaged since stays as well, for its owner to see and mend."""
    try:
        entry = json.loads(line)
        is_again = entry["mode"] == "val" and not is_validated
        return entry["iteration"] <= start - is_again
    except (ValueError, LookupError, TypeError, RecursionError):
        return not is_cut


class TensorBoard:
    """Event files in the folder `tensorboard`, with the tags train/<name> and val/<name>.

    Written here, not by torch's `SummaryWriter`: its thread fails with a traceback of its own where the disk is full.
    """

    @classmethod
    def open(cls, work_dir: Path, start: int) -> Self:
        """Return the tracker of a run."""
        return cls(work_dir / "tensorboard", start)

    def __init__(self, folder: Path, start: int) -> None:
        # only when a run starts: it takes a second and more
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter
        from torch.utils.tensorboard import summary

        proto: Any = event_pb2  # its names are made when it is imported
        self._event, self._record, self._make = proto.Event, RecordWriter, summary
        name = f"events.out.tfevents.{int(time.time()):010d}.{platform.node()}.{os.getpid()}.{secrets.token_hex(4)}"
        self._stream = _Stream(folder / name, "x")
        self._write(proto.Event(file_version="brain.Event:2"))
        # what an interrupted run wrote beyond its state is not shown
        begun = proto.SessionLog(status=proto.SessionLog.START)
        self._write(proto.Event(step=start + 1, session_log=begun))

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        record = io.BytesIO()
        self._record(record).write(event.SerializeToString())
        self._stream.write(record.getvalue())

    def scalars(self, mode: str, iteration: int, values: Mapping[str, float]) -> None:
        """Add one point to each curve."""
        for name, value in values.items():
            self._write(self._event(step=iteration, summary=self._make.scalar(f"{mode}/{name}", value)))

    def picture(self, name: str, picture: np.ndarray, iteration: int) -> None:
        """Add a picture."""
        self._write(self._event(step=iteration, summary=self._make.image(name, picture, dataformats="HWC")))

    def close(self) -> None:
        """Close the event file."""
        self._stream.close()


class NullLogger:
    """The logger of every process but the first: says nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def step(self, seconds: float, waited: float, images: int) -> None:
        """See `RunLogger.step`."""

    def train(self, iteration: int, values: Mapping[str, float]) -> None:
        """See `RunLogger.train`."""

    def validation(self, iteration: int, values: Mapping[str, float]) -> None:
        """See `RunLogger.validation`."""

    def image(self, name: str, picture: np.ndarray, iteration: int) -> None:
        """See `RunLogger.image`."""

    def message(self, text: str) -> None:
        """See `RunLogger.message`."""


class Pace:
    """Seconds per iteration and share of waiting since the last report."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start a new interval."""
        self.steps, self.images, self.seconds, self.waited = 0, 0, 0.0, 0.0

    def add(self, seconds: float, waited: float, images: int) -> None:
        """Count one step."""
        self.steps += 1
        self.images += images
        self.seconds += seconds
        self.waited += waited

    def figures(self, left: int) -> dict[str, float]:
        """Return images per second, share of the time spent waiting for data, and seconds left."""
        seconds = max(self.seconds, 1e-9)
        return {
            "images_per_second": self.images / seconds,
            "data_share": self.waited / seconds,
            "seconds_left": left * seconds / max(self.steps, 1),
        }


class RunLogger:
    """The voice of a training run; use it as a context manager, which closes everything.

    Args:
        work_dir: gets log.txt, log.jsonl and tensorboard/; files of an earlier part of the run are continued.
        total: optimizer steps of the whole run.
        start: optimizer steps done before (a resumed run).
        is_validated: see `JsonLines`.
        trackers: names of further places, see `segcore.training.trackers`.
    """

    def __init__(
        self, work_dir: Path, total: int, *, start: int = 0, is_validated: bool = True, trackers: Sequence[str] = ()
    ) -> None:
        work_dir.mkdir(parents=True, exist_ok=True)
        self.total = total
        self._pace = Pace()
        self._sinks: list[Sink] = [open_tracker(name, work_dir, start) for name in trackers]
        self._sinks.append(JsonLines(work_dir / "log.jsonl", start, is_validated))
        console = PlainConsole(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task("training", total=total, completed=start)
        self._handlers = _handlers(work_dir / "log.txt", console)
        self._level, self._propagates = _PACKAGE.level, _PACKAGE.propagate
        _PACKAGE.setLevel(logging.INFO)
        _PACKAGE.propagate = False
        for handler in self._handlers:
            _PACKAGE.addHandler(handler)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        for sink in self._sinks:
            sink.close()
        for handler in self._handlers:
            _PACKAGE.removeHandler(handler)
            handler.close()
        _PACKAGE.setLevel(self._level)
        _PACKAGE.propagate = self._propagates

    def step(self, seconds: float, waited: float, images: int) -> None:
        """Count one optimizer step.

        Args:
            seconds: duration of the step, waiting included.
            waited: part of it that was spent waiting for data.
            images: in the whole batch, over all processes.
        """
        self._pace.add(seconds, waited, images)
        self._progress.advance(self._task)

    def train(self, iteration: int, values: Mapping[str, float]) -> None:
        """Report the steps since the last report.

        Args:
            iteration: optimizer steps done.
            values: at least "loss" and "lr"; the other terms are written to the files only.
        """
        figures = {**values, **self._pace.figures(self.total - iteration), "memory_mib": used_memory()}
        self._pace.reset()
        for sink in self._sinks:
            sink.scalars("train", iteration, figures)
        left = timedelta(seconds=round(figures["seconds_left"]))
        short = f"loss {figures['loss']:.4f}  lr {figures['lr']:.3g}"
        self._progress.update(self._task, description=f"{short}  left {left}")
        self.message(
            f"iteration {iteration}/{self.total}  {short}  {figures['images_per_second']:.1f} images/s  "
            f"data wait {figures['data_share']:.0%}  memory {_mebibytes(figures['memory_mib'])}  left {left}"
        )

    def validation(self, iteration: int, values: Mapping[str, float]) -> None:
        """Report scores; those of single classes (with a dot in the name) are written to the files only."""
        for sink in self._sinks:
            sink.scalars("val", iteration, values)
        scores = "  ".join(f"{name} {value:.4f}" for name, value in values.items() if "." not in name)
        self.message(f"validation after iteration {iteration}  {scores}")

    def image(self, name: str, picture: np.ndarray, iteration: int) -> None:
        """Keep a picture, (H, W, 3) uint8 BGR."""
        for sink in self._sinks:
            sink.picture(name, picture[..., ::-1], iteration)

    def message(self, text: str) -> None:
        """Say one line."""
        _PACKAGE.info(text)


def create_logger(work_dir: str | Path, total: int, *, is_main: bool = True, **options: Any) -> RunLogger | NullLogger:
    """Return the logger of this process, with the options of `RunLogger`."""
    return RunLogger(Path(work_dir), total, **options) if is_main else NullLogger()


class _LogFile(logging.FileHandler):
    """The handler of log.txt; where it cannot be written, the run ends like one that cannot be saved."""

    def _open(self) -> Any:
        return io.TextIOWrapper(open_to_append(Path(self.baseFilename), "a"), "utf-8", line_buffering=True)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        with writing(Path(self.baseFilename)):
            raise  # the error that is handled while this is called

    def close(self) -> None:
        with suppress(OSError):  # only what `handleError` has complained of is left
            super().close()


class _PlainFormatter(logging.Formatter):
    """Log lines in which names of files and classes do nothing to a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _handlers(path: Path, console: PlainConsole) -> list[logging.Handler]:
    """Return where log lines go: the file, and the terminal above the progress bar or standard error."""
    file = _LogFile(path, encoding="utf-8")
    shown = RichHandler(console=console, show_path=False) if console.is_terminal else logging.StreamHandler(sys.stderr)
    file.setFormatter(_PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
    shown.setFormatter(_PlainFormatter("%(message)s" if console.is_terminal else "%(asctime)s %(message)s"))
    return [file, shown]


def _mebibytes(memory: float) -> str:
    return "unknown" if math.isnan(memory) else f"{memory:.0f} MiB"


def used_memory() -> float:
    """Return the peak of allocated GPU memory, or without a GPU in use, of the process's resident memory, in MiB.

    NaN on Windows without a GPU in use: Python has no word for it there. Of Apple's GPU it is what is allocated now.
    """
    gpu = torch.accelerator.current_accelerator(check_available=True)
    if gpu is not None:
        module = torch.get_device_module(gpu)
        allocated = module.current_allocated_memory() if gpu.type == "mps" else module.max_memory_allocated()
        if allocated:
            return allocated / 2**20
    try:
        import resource  # Unix only
    except ImportError:
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB on Linux
