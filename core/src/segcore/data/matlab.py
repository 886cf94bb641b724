"""Arrays from MATLAB files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from segcore.data.read import DataFileError

_UNREADABLE = (OSError, ValueError, TypeError, KeyError, MatReadError, NotImplementedError, zlib.error, struct.error)


def read_matlab(path: Path, field: str) -> np.ndarray:
    """Return one array of a MATLAB file (version 4 to 7.2), its other contents are not decoded.

    Args:
        field: name of the array.

    Raises:
        DataFileError: if the file is missing, broken, or without this field.
    """
    try:
        content = loadmat(str(path), variable_names=[field])
    except FileNotFoundError as error:
        raise DataFileError(
            "missing label", f"expected the label {path}, which does not exist; add it or remove its image"
        ) from error
    except _UNREADABLE as error:
        raise DataFileError(
            "unreadable label", f"cannot read {path} as a MATLAB file ({error}); download it again or remove it"
        ) from error
    if field not in content:
        raise DataFileError("unreadable label", f"{path}: expected a MATLAB file with the array {field!r}, it has none")
    return content[field]


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
