"""Running of a command: what a user caused becomes one sentence and an exit code."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Protocol

from segcore.errors import InputError
from segcore.memory import keep_freed_memory


class Command(Protocol):
    """A console script: the words after its name, or those of this process -> exit code."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


def command(program: str, body: Callable[[list[str]], int]) -> Command:
    """Return the console script of a program whose words `body` understands."""

    def run(argv: Sequence[str] | None = None) -> int:
        return run_guarded(program, argv, body)

    return run


def run_guarded(program: str, argv: Sequence[str] | None, body: Callable[[list[str]], int]) -> int:
    """Run a command: what a user caused becomes one sentence and exit code 2 (with `--debug`, a traceback as well)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a letter gets its number instead
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        enter_run(program)
    code = _run(program, words, body)
    if argv is None:
        leave_run(code)
    return code


def enter_run(program: str) -> None:
    """Set this process up for a command, before torch is imported."""
    # Threads that wait for each other spin only briefly: two runs on two cores then share them instead of starving
    # each other (measured: 15 images/s each instead of 2), for 7 % of the speed of a run alone.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    keep_freed_memory()
    _answer_interrupts(program)


def _answer_interrupts(program: str) -> None:
    """Let Ctrl-C end this process at once while something is imported, else as Python does.

    An import may lose the exception, in C code or in a search for an optional part, and go on with half a module.
    """

    def answer(_: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                print(f"{program}: interrupted", file=sys.stderr, flush=True)
                os._exit(128 + signal.SIGINT)
            frame = frame.f_back
        raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, answer)


def leave_run(code: int) -> None:
    """End this process where it is one of several; else return.

    torch's threads of the process group may abort a process that is being torn down (seen with gloo).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(program: str, words: list[str], body: Callable[[list[str]], int]) -> int:
    is_debug = "--debug" in words
    try:
        return body([word for word in words if word != "--debug"])
    except InputError as error:
        from segcore.console import printable  # with rich, only where something is shown

        if is_debug:
            traceback.print_exc()
        print(f"{program}: {printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        sentence = None if is_debug else _sentence(error)
        if sentence is None:
            raise
        print(f"{program}: {sentence}", file=sys.stderr)
        return 2


def _sentence(error: Exception) -> str | None:
    """Return what to say of an error that the system or torch raised: a file, a disk, memory; None for others."""
    from segcore.console import printable

    if "torch" in sys.modules:
        from segcore.failures import explain

        sentence = explain(error)
        if sentence:
            return printable(sentence)
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, OSError) and error.strerror:
        name = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return printable(f"{name}{error.strerror}; --debug shows where")
    return None
