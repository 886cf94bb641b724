"""Where results go: written whole or not at all, replacing no file of the user's, into folders that were tried."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, NamedTuple

from segcore.errors import InputError


class Output(NamedTuple):
    """A file to be written: what it is made from, and the option that names its folder."""

    path: Path
    source: Path
    option: str


def check_outputs(outputs: Iterable[Output], inputs: Iterable[Path]) -> None:
    """Refuse a file that would replace an input, and two results of different sources in one file.

    Raises:
        InputError: for the first such file, with the option that puts it there.
    """
    protected = {path.resolve() for path in inputs}
    taken: dict[Path, Path] = {}
    for output in outputs:
        place = output.path.resolve()
        if place in protected:
            raise InputError(
                f"{output.option}: {output.path} would replace an input, the file of that name; give another folder "
                f"with {output.option}"
            )
        other = taken.setdefault(place, output.source)
        if other.resolve() != output.source.resolve():
            raise InputError(
                f"{other} and {output.source} would both be written to {output.path}; write them into two folders "
                f"({output.option})"
            )


def check_opacity(opacity: float) -> None:
    """Refuse an opacity that is not in 0..1.

    Raises:
        InputError: naming the option.
    """
    if not 0 <= opacity <= 1:
        raise InputError(f"--opacity must be between 0 and 1, got {opacity}")


def make_folder(folder: Path, option: str) -> Path:
    """Make a folder where it does not exist, and try to write in it.

    Raises:
        InputError: if it cannot be made or written, with the reason and the option that names it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # permission bits alone say nothing about the file system or root
            pass
    except OSError as error:
        raise InputError(f"cannot write into {folder}: {_reason(folder, error)}; give another {option}") from error
    return folder


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say which file it was that could not be made or written.

    Raises:
        InputError: if the folder or the disk refuses.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {_reason(path.parent, error)}; free space or give another folder"
        ) from error


def unfinished_name(path: Path) -> Path:
    """Return what a file may be called until it is whole: a free name in its folder that cannot be guessed."""
    # a name may be as long as the file system allows: only its start is taken
    return path.with_name(f".{path.name[:50]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


@contextmanager
def atomic_write(path: Path, *, is_flushed: bool = True) -> Iterator[IO[bytes]]:
    """Open a file to write that replaces `path` only when it is complete and on the disk.

    It is written under another name in the same folder, flushed to the disk and renamed. Whatever goes wrong, the
    previous file stays whole and the unfinished one is removed. That name cannot be guessed and must be free, so that
    nobody else's file or link is written to.

    Args:
        is_flushed: off for what is quickly made again: a power cut may then leave an empty file.

    Raises:
        InputError: if the folder or disk refuses, for example because it is full.
    """
    unfinished = unfinished_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(unfinished, "xb") as file:
            yield file
            file.flush()
            if is_flushed:
                os.fsync(file.fileno())
        os.replace(unfinished, path)
        if is_flushed:
            _flush_folder(path.parent)
    except (OSError, RuntimeError) as error:
        # torch's zip writer reports a failed write as a RuntimeError raised while handling the OSError
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        kept = "the previous file is unchanged" if os.path.exists(path) else "nothing was left there"
        raise InputError(
            f"cannot save {path}: {_reason(path.parent, cause)}; {kept}; free space or choose another folder"
        ) from error
    finally:
        if os.path.exists(unfinished):
            unfinished.unlink()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say which file it was that could not be read.

    Raises:
        InputError: if the system refuses.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def open_to_append(path: Path, mode: Literal["a", "x"]) -> IO[bytes]:
    """Open a file to write at its end; made where it does not exist.

    Args:
        mode: "x" refuses a file that exists.

    Raises:
        InputError: if the folder or disk refuses, or a link or something else that is no file stands there.
    """

    def opener(name: str, flags: int) -> int:
        # neither follow a link nor wait for the reader of a pipe
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)

    try:
        return open(path, f"{mode}b", opener=opener)
    except OSError as error:
        reason = "it is a link" if path.is_symlink() else error.strerror or error
        raise InputError(f"cannot write {path}: {reason}; remove it or choose another folder") from error


def _flush_folder(folder: Path) -> None:
    """Put a rename on the disk, so that a power cut cannot undo it; Windows opens no folders."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(folder: Path, error: OSError) -> str:
    """Say why a folder refuses; "File exists" would not tell that a file stands where the folder should be."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        for place in (folder, *folder.parents):
            if place.exists() and not place.is_dir():
                return f"{place} is a file, not a folder"
    return error.strerror or str(error)
