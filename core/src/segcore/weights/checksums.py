"""The checksum in our weights and states: SHA-256 of the whole file, kept in the file and compared when it is read.

A weights file has it in its safetensors header, as the entry `sha256`, and is summed with zeros in its place. A state
has it as a last line behind torch's archive. Other programs read both kinds as they would without it. Published files
have none; where torch made them as archives, the sums of the archive's records are compared instead.
"""

from __future__ import annotations

import hashlib
import logging
import lzma
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple

from segcore.errors import InputError

ENTRY = "sha256"
BLANK = "0" * 64
"""What stands in a header in place of the sum while it is computed."""

_MAX_HEADER = 100_000_000  # bytes, the limit of safetensors
# quotes inside a text are escaped: this is the entry itself
_ENTRY = re.compile(rb'"%s":"([^"]{64})"' % ENTRY.encode())
_LINE = b"\nsegcore sha256 "
_LINE_SIZE = len(_LINE) + 65
_PART = 1 << 20
_ARCHIVE = b"PK\x03\x04"
_BAD_ARCHIVE = (zipfile.BadZipFile, OSError, RuntimeError, ValueError, LookupError, EOFError, TypeError, OverflowError)
_BAD_RECORD = (zlib.error, lzma.LZMAError, struct.error)
_said: set[Path] = set()
log = logging.getLogger(__name__)


class Sealed(NamedTuple):
    """A weights file in three parts to be written one after the other."""

    start: memoryview
    checksum: bytes
    end: memoryview


def sealed(data: bytes) -> Sealed:
    """Return the bytes of a safetensors file, whose entry `ENTRY` is `BLANK`, with their checksum in its place."""
    entry = _ENTRY.search(data, 8, _header_end(data))
    assert entry is not None
    assert entry[1] == BLANK.encode()
    view = memoryview(data)
    return Sealed(view[: entry.start(1)], hashlib.sha256(data).hexdigest().encode(), view[entry.end(1) :])


class SealedWriter:
    """A file that sums what is written to it; `seal` ends it with the checksum."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        """Write bytes."""
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Hand what was written to the system."""
        self._file.flush()

    def seal(self) -> None:
        """Write the last line; nothing may follow."""
        self._file.write(_LINE + self._hash.hexdigest().encode() + b"\n")


def compare(path: Path) -> str | None:
    """Compare a file with what it carries to notice damage.

    Returns:
        What that was: our checksum, or the sums of an archive's records; None for a file that carries nothing.

    Raises:
        InputError: if the content has changed since it was written, or cannot be read.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist, or is no file")
    try:
        with open(path, "rb") as file:
            if file.read(4) == _ARCHIVE:
                return _compare_archive(path, file)
            file.seek(0)
            return _compare_header(path, file)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def say_unsealed(path: Path) -> None:
    """Say once that damage to a weights file of ours could not be noticed."""
    if path.absolute() not in _said:
        _said.add(path.absolute())
        log.warning("%s carries no checksum (an older version wrote it): a changed value would not be noticed", path)


def _compare_header(path: Path, file: IO[bytes]) -> str | None:
    start = file.read(8)
    header = file.read(min(int.from_bytes(start, "little"), _MAX_HEADER))
    entry = _ENTRY.search(header)
    if entry is None:
        return None
    summed = hashlib.sha256(start + header[: entry.start(1)] + BLANK.encode() + header[entry.end(1) :])
    for part in iter(lambda: file.read(_PART), b""):
        summed.update(part)
    return _equal(path, summed.hexdigest(), entry[1])


def _compare_archive(path: Path, file: IO[bytes]) -> str | None:
    size = file.seek(0, 2)
    file.seek(max(size - _LINE_SIZE, 0))
    line = file.read()
    if not line.startswith(_LINE):
        return _compare_records(path)
    file.seek(0)
    summed = hashlib.sha256()
    end = size - _LINE_SIZE
    for start in range(0, end, _PART):
        summed.update(file.read(min(_PART, end - start)))
    return _equal(path, summed.hexdigest(), line[len(_LINE) : -1])


def _compare_records(path: Path) -> str | None:
    """Compare the sums of an archive's records, which torch itself does not look at."""
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(record.CRC for record in archive.infolist()):
                return None  # written with torch.serialization.set_crc32_options(False)
            bad = archive.testzip()
    except (*_BAD_ARCHIVE, *_BAD_RECORD) as error:
        raise InputError(f"{path} is truncated or damaged ({error}); copy or download it again") from error
    if bad is not None:
        raise InputError(f"{path} is damaged: its record {bad} has changed; copy or download it again")
    return "crc32 of every record"


def _equal(path: Path, found: str, stored: bytes) -> str:
    if found.encode() != stored:
        raise InputError(f"{path} is truncated or damaged: it is not what its checksum says; copy it again")
    return f"sha256 {found}"


def _header_end(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")
