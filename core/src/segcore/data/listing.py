"""Which files a data set has: listing of folders, pairs of image and label, lists of stems. Loads no torch."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from segcore.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


class Item(NamedTuple):
    """The files of one sample; label is None where the split has no annotation."""

    name: str
    image: Path
    label: Path | None


def find_files(folder: Path, suffixes: Collection[str]) -> list[str]:
    """Return the files below a folder by relative POSIX path, sorted; hidden ones and those of hidden folders not.

    Links are followed. A folder that is reached twice is listed once, by its own path rather than by a link's.

    Args:
        suffixes: ends of the file names to keep; upper and lower case are the same.

    Raises:
        InputError: if a folder cannot be read, or a name is not UTF-8.
    """
    if not folder.is_dir():
        return []
    ends = tuple(suffix.lower() for suffix in suffixes)
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    waiting = deque([""])
    while waiting:
        inside = waiting.popleft()
        try:
            status = os.stat(folder / inside)
            with os.scandir(folder / inside) as listing:
                entries = [entry for entry in listing if not entry.name.startswith(".")]
        except OSError as error:
            raise InputError(f"cannot read the folder {folder / inside}: {error.strerror}") from error
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in sorted(entries, key=lambda entry: entry.name):
            if _is_folder(entry):
                # Links wait until all folders are seen: of a folder and a link to it, its own path is kept.
                (waiting.append if entry.is_symlink() else waiting.appendleft)(f"{inside}{entry.name}/")
            elif entry.name.lower().endswith(ends):
                found.append(f"{inside}{entry.name}")
    _require_utf8(folder, found)
    return sorted(found)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _require_utf8(folder: Path, names: Iterable[str]) -> None:
    """Refuse names that no list file, log or page could hold; Python stands in for their bytes with surrogates.

    Raises:
        InputError: for the first one.
    """
    for name in names:
        path = str(folder / name)
        if not path.isascii() and any("\ud800" <= character <= "\udfff" for character in path):
            raise InputError(
                f"the name {path} is not UTF-8; rename it (all: `convmv -f latin1 -t utf-8 -r --notest {folder}`)"
            )


def list_pairs(
    images: Path, labels: Path | None, *, image_suffix: str = ".jpg", label_suffix: str = ".png", prefix: str = ""
) -> list[Item]:
    """Pair every image below a folder with the label of the same stem.

    Args:
        labels: folder of the labels, None for a split without annotations.
        image_suffix: end of the image names, replaced by label_suffix to get the name of the label.
        prefix: put before the names.

    Raises:
        InputError: if the folder holds no image.
    """
    stems = [path[: -len(image_suffix)] for path in find_files(images, [image_suffix])]
    if not stems:
        raise InputError(
            f"expected *{image_suffix} images in {images}, found none; --run.data must name the data set's root"
        )
    return [
        Item(prefix + stem, images / (stem + image_suffix), labels / (stem + label_suffix) if labels else None)
        for stem in stems
    ]


def first_folder(candidates: Iterable[Path], root: Path, title: str, expected: str) -> Path:
    """Return the first folder that exists.

    Raises:
        InputError: if none does, with the layout that was expected.
    """
    for folder in candidates:
        if folder.is_dir():
            return folder
    if root == Path():
        raise InputError(f"{title} needs its folder: set --run.data to the one that holds {expected}")
    state = "does not exist" if not root.is_dir() else f"has no {expected}"
    raise InputError(f"{title}: the folder {root} {state}; --run.data must name the folder that holds {expected}")


def select_items(items: list[Item], list_file: Path) -> list[Item]:
    """Return the items that a list file names, in its order.

    Args:
        list_file: one stem or relative path per line, suffix optional.

    Raises:
        InputError: if the file is unreadable, names no image, or one that is not among the items or fits several.
    """
    try:
        lines = list_file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the list file {list_file}: {error}; expected one stem per line") from error
    exact = {item.name: item for item in items}
    fitting: dict[str, list[Item]] = {}
    for item in items:
        # "train/bonn/bonn_01" also answers to "bonn/bonn_01", the name it has where only one split is read.
        parts = item.name.split("/")
        for ending in {*("/".join(parts[start:]) for start in range(1, len(parts))), item.image.name}:
            fitting.setdefault(ending, []).append(item)
    selected: list[Item] = []
    for number, line in enumerate(lines, start=1):
        stem = line.strip()
        if not stem:
            continue
        without_suffix = str(Path(stem).with_suffix("").as_posix())
        candidates = [exact[name] for name in (stem, without_suffix) if name in exact][:1]
        candidates = candidates or fitting.get(stem) or fitting.get(without_suffix) or []
        if not candidates:
            raise InputError(
                f"{list_file}, line {number}: no image {stem!r} in this split; one stem per line is expected"
            )
        if len(candidates) > 1:
            both = f"{candidates[0].name} and {candidates[1].name}"
            raise InputError(f"{list_file}, line {number}: {stem!r} fits both {both}; write more of the path")
        selected.append(candidates[0])
    if not selected:
        raise InputError(f"the list file {list_file} names no image; expected one stem per line")
    return selected
