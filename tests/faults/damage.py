"""Damage to a file as disks, copies and editors do it, from a seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Change = Callable[[bytearray, np.random.Generator], bytes | bytearray]


def _place(data: bytearray, rng: np.random.Generator, length: int = 1) -> int:
    return int(rng.integers(max(len(data) - length, 1)))


def _flip_bit(data: bytearray, rng: np.random.Generator) -> bytearray:
    data[_place(data, rng)] ^= 1 << int(rng.integers(8))
    return data


def _flip_bit_of_start(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Hit the header of weights, or the first record of a state."""
    data[int(rng.integers(min(len(data), 4096)))] ^= 1 << int(rng.integers(8))
    return data


def _flip_bit_of_end(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Hit the directory of a state."""
    data[-1 - int(rng.integers(min(len(data), 4096)))] ^= 1 << int(rng.integers(8))
    return data


def _flip_bits(data: bytearray, rng: np.random.Generator) -> bytearray:
    for _ in range(int(rng.integers(2, 9))):
        _flip_bit(data, rng)
    return data


def _overwrite(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Put one block of a disk to zero, or fill it with what was there before."""
    start = _place(data, rng, 4096)
    block = len(data[start : start + 4096])
    data[start : start + block] = bytes(block) if rng.random() < 0.5 else rng.bytes(block)
    return data


def _cut(data: bytearray, rng: np.random.Generator) -> bytes:
    return bytes(data[: _place(data, rng)])


def _lose_bytes(data: bytearray, rng: np.random.Generator) -> bytearray:
    start = _place(data, rng, 64)
    del data[start : start + int(rng.integers(1, 64))]
    return data


def _add_bytes(data: bytearray, rng: np.random.Generator) -> bytearray:
    start = len(data) if rng.random() < 0.5 else _place(data, rng)
    data[start:start] = rng.bytes(int(rng.integers(1, 64)))
    return data


def _swap_blocks(data: bytearray, rng: np.random.Generator) -> bytearray:
    size = min(4096, len(data) // 4)
    first, second = int(rng.integers(len(data) // 2 - size)), len(data) // 2 + int(rng.integers(len(data) // 2 - size))
    data[first : first + size], data[second : second + size] = (
        data[second : second + size],
        data[first : first + size],
    )
    return data


def _change_line_ends(data: bytearray, _: np.random.Generator) -> bytes:
    """Copy a file as text."""
    return bytes(data).replace(b"\n", b"\r\n")


def _replace_all(_: bytearray, rng: np.random.Generator) -> bytes:
    return (b"", b"<!DOCTYPE html>\n<title>404</title>", bytes(1000), rng.bytes(1000))[int(rng.integers(4))]


CHANGES: tuple[Change, ...] = (
    _flip_bit,
    _flip_bit_of_start,
    _flip_bit_of_end,
    _flip_bits,
    _overwrite,
    _cut,
    _lose_bytes,
    _add_bytes,
    _swap_blocks,
    _change_line_ends,
    _replace_all,
)


def damaged(data: bytes, seed: int) -> bytes:
    """Return a file's content with one kind of damage; consecutive seeds take the kinds in turn."""
    changed = bytes(CHANGES[seed % len(CHANGES)](bytearray(data), np.random.default_rng(seed)))
    return changed if changed != data else bytes(_flip_bit(bytearray(data), np.random.default_rng(seed)))
