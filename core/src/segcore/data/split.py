"""Division of a folder of images into training, validation and test parts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segcore.data.folder import FolderDataset, split_folders
from segcore.errors import InputError
from segcore.files import atomic_write

BY_FOLDER = "folder"


def open_folder(root: str, list_file: str = "", **options: Any) -> FolderDataset:
    """Return every image of a folder that has no subfolders for splits.

    Raises:
        InputError: if it has some.
    """
    folders = split_folders(Path(root))
    if folders:
        raise InputError(f"{Path(root, 'images')} is split by its folders {' and '.join(folders)} already")
    return FolderDataset(root, "all", list_file=list_file, **options)


def group_names(names: Sequence[str], rule: str) -> list[str]:
    """Return the group of every image: images of one group come into one part.

    Args:
        names: relative paths without suffix.
        rule: empty makes every image a group; `folder` groups those of one folder; anything else is a regular
            expression, and images belong together that match alike, or whose groups of the expression do.

    Raises:
        InputError: if it is no regular expression, or one that a name does not match.
    """
    if not rule:
        return list(names)
    if rule == BY_FOLDER:
        return [name.rpartition("/")[0] for name in names]
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise InputError(f"--group {rule} is no regular expression ({error}); give one, or `{BY_FOLDER}`") from error
    groups: list[str] = []
    for name in names:
        match = pattern.search(name)
        if match is None:
            raise InputError(f"--group {rule} does not match the image {name}; every image needs a group")
        groups.append("\0".join(str(part) for part in match.groups()) or match[0])
    return groups


def divide(presence: np.ndarray, groups: Sequence[str], shares: Sequence[float], seed: int) -> np.ndarray:
    """Divide images into parts that each have about their share of the images of every class.

    Iterative stratification (Sechidis et al., On the Stratification of Multi-Label Data, 2011), with groups in place of
    images: the rarest class first, each of its groups goes to the part that lacks most images of that class.

    Args:
        presence: (N, K) bool, classes of each image.
        groups: group of each image.
        shares: of the images for each part; their sum is 1.
        seed: decides the order of equal groups.

    Returns:
        The part of each image, (N,) int64.

    Raises:
        InputError: if there are too few groups for every part to get one.
    """
    _, unit_of = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    # a last class, which every image has, balances the numbers of images
    members = np.column_stack([presence, np.ones(len(presence), bool)]).astype(np.int64)  # (N, K + 1)
    counts = np.zeros((unit_of.max() + 1, members.shape[1]), np.int64)  # images of each class in each unit, (U, K + 1)
    np.add.at(counts, unit_of, members)
    wanted = np.asarray(shares)[:, None] * counts.sum(axis=0)  # (P, K + 1)
    shuffled = np.random.default_rng(seed).permutation(len(counts))
    order = shuffled[np.argsort(-counts[shuffled, -1], kind="stable")]  # large groups while there is room for them
    part_of = np.full(len(counts), -1)
    while (part_of < 0).any():
        left = counts[part_of < 0].sum(axis=0)
        rarest = int(np.where(left > 0, left, np.iinfo(np.int64).max).argmin())
        for unit in order[(part_of[order] < 0) & (counts[order, rarest] > 0)]:
            part = max(range(len(shares)), key=lambda p: (wanted[p, rarest], wanted[p, -1]))
            part_of[unit] = part
            wanted[part] -= counts[unit]
    if len(np.unique(part_of)) < len(shares):
        raise InputError(
            f"{len(counts)} groups of images are too few for {len(shares)} parts; give larger shares or a finer --group"
        )
    return part_of[unit_of]


def write_lists(files: Sequence[Path], names: Sequence[str], part_of: np.ndarray) -> None:
    """Write the names of each part into its file.

    Raises:
        InputError: if one of the files exists; then none is written.
    """
    refuse_existing(files)
    for number, path in enumerate(files):
        chosen = [name for name, part in zip(names, part_of, strict=True) if part == number]
        with atomic_write(path) as file:
            file.write("".join(f"{name}\n" for name in chosen).encode())


def refuse_existing(files: Sequence[Path]) -> None:
    """Raise an `InputError` for the first file that exists: a division is not made twice by accident."""
    for path in files:
        if path.exists():
            raise InputError(f"{path} exists; move it away, or give another --out")
