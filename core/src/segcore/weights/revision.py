"""The git revision of a folder, read from its files: nothing that a repository's configuration names is run."""

from __future__ import annotations

import os
import re
from pathlib import Path

_HASH = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_REF = re.compile(r"refs/[\w/+@=-][\w./+@=-]*", re.ASCII)
_MAX_SIZE = 1 << 24  # bytes; a list of a hundred thousand tags is smaller


def git_revision(folder: Path) -> str | None:
    """Return the commit that is checked out in a folder or the nearest one above it; None where there is none.

    Running git here would run what the folder says: `core.fsmonitor`, hooks, filters, remotes of a partial clone.
    Whether files differ from the commit is therefore not known.
    """
    try:
        folder = folder.absolute()
    except FileNotFoundError:  # the current folder was removed
        return None
    for place in (folder, *folder.parents):
        dot = place / ".git"
        if os.path.isfile(dot):  # of a linked work tree or a submodule
            dot = place / _text(dot).removeprefix("gitdir:").strip()
        if os.path.isfile(dot / "HEAD"):
            return _resolve(dot)
    return None


def _resolve(git: Path) -> str | None:
    head = _text(git / "HEAD").strip()
    name = head.removeprefix("ref:").strip()
    if _HASH.fullmatch(name):
        return name
    if not head.startswith("ref:") or not _REF.fullmatch(name) or ".." in name:
        return None
    common = git / (_text(git / "commondir").strip() or ".")
    for place in (git, common):
        if _HASH.fullmatch(value := _text(place / name).strip()):
            return value
    packed = re.search(rf"(?m)^([0-9a-f]+) {re.escape(name)}$", _text(common / "packed-refs"))
    return packed[1] if packed else None


def _text(path: Path) -> str:
    """Return the content of a regular file; nothing of a pipe, a device or a file too large."""
    try:
        if not os.path.isfile(path) or path.stat().st_size > _MAX_SIZE:
            return ""
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""
