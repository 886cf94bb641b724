"""Arrays from MATLAB files."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from segcore.data.read import DataFileError

_HEADER, _TAG = 128, 8  # bytes
_UNREADABLE = (OSError, ValueError, TypeError, KeyError, MatReadError, NotImplementedError, zlib.error, struct.error)


def read_matlab(path: Path, field: str) -> np.ndarray:
    """Return one array of a MATLAB file, see `read_matlab_arrays`."""
    return read_matlab_arrays(path, [field])[0]


def read_matlab_arrays(path: Path, fields: Sequence[str]) -> list[np.ndarray]:
    """Return some arrays of a MATLAB file (version 4 to 7.2), its other contents are not decoded.

    Args:
        fields: names of the arrays.

    Raises:
        DataFileError: if the file is missing, broken, or without one of the fields.
    """
    try:
        content = loadmat(str(path), variable_names=list(fields))
    except FileNotFoundError as error:
        raise DataFileError(
            "missing label", f"expected the label {path}, which does not exist; add it or remove its image"
        ) from error
    except _UNREADABLE as error:
        raise DataFileError(
            "unreadable label", f"cannot read {path} as a MATLAB file ({error}); download it again or remove it"
        ) from error
    for field in fields:
        if field not in content:
            raise DataFileError(
                "unreadable label", f"{path}: expected a MATLAB file with the array {field!r}, it has none"
            )
    return [content[field] for field in fields]


def read_matlab_label(path: Path, field: str) -> np.ndarray:
    """Return the label map in a field of a MATLAB file.

    Shapes:
        -> (H, W) integers

    Raises:
        DataFileError: as `read_matlab`, and if the array is no label map.
    """
    label = read_matlab(path, field)
    if label.ndim != 2 or not np.issubdtype(label.dtype, np.integer):
        expected = f"expected {field!r} to be a map of integers"
        raise DataFileError("unreadable label", f"{path}: {expected}, got shape {label.shape} of {label.dtype}")
    return label


def is_whole_matlab(path: Path) -> bool:
    """Tell whether a MATLAB file (version 5 to 7.2) ends where its last array does; a cut-off one does not.

    It is a header of 128 bytes and arrays, each after 8 bytes with its kind and its length.
    """
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(_HEADER - 2)
        order = {b"IM": "<", b"MI": ">"}.get(file.read(2))
        position = _HEADER
        while order and position + _TAG <= length:
            file.seek(position)
            position += _TAG + struct.unpack(order + "II", file.read(_TAG))[1]
        return order is not None and position == length > _HEADER
