"""Published boundary maps: the `dt_offset` files of SegFix's generator (unept/PAPER 8).

One MATLAB v5 file per image, of the label's stem: `depth` and `dir_deg` (H, W) uint8, `deg_reduce` (1, 1), the degrees
per step of `dir_deg`. They lie where the labels do, in a folder dt_offset in place of that of the labels:

    annotations/training/A.png             ->  dt_offset/training/A.mat         (ADE20K)
    train/label/2008_1.png                 ->  train/dt_offset/2008_1.mat       (Pascal Context as released with UN-EPT)
    SegmentationClassContext/2008_1.png    ->  dt_offset/2008_1.mat             (Pascal Context as in VOC2010)
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from scipy.io import savemat

from segcore.data.matlab import read_matlab_arrays
from segcore.data.read import DataFileError
from unept.boundary.maps import DEGREES_PER_STEP, BoundaryMaps

FOLDER = "dt_offset"
_LABEL_FOLDERS = ("annotations", "label", "SegmentationClassContext", "masks")
_FIELDS = ("depth", "dir_deg", "deg_reduce")


def offset_file(label_file: Path) -> Path | None:
    """Return where the boundary maps of a label file belong, None where its data set has no place for them."""
    parts = list(label_file.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] in _LABEL_FOLDERS:
            parts[place] = FOLDER
            return Path(*parts).with_suffix(".mat")
    return None


def read_offsets(path: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return distance (pixels) and angle (degrees, -180 to 180) of a file.

    Args:
        size: height and width of the label that they belong to.

    Shapes:
        -> (H, W) float32 each

    Raises:
        DataFileError: if the file is damaged, lacks a field, or is of another size than the label.
    """
    cure = f"remove it (it is then computed from the label), or write it again with unept-{FOLDER.replace('_', '-')}"
    try:
        depth, steps, degrees = read_matlab_arrays(path, _FIELDS)
    except DataFileError as error:
        raise DataFileError("unreadable label", f"{error}; or {cure}") from error
    if depth.shape != size or steps.shape != size:
        found = " and ".join("x".join(map(str, reversed(part.shape))) for part in (depth, steps))
        wanted = f"expected depth and dir_deg of its label's size {size[1]}x{size[0]} (width x height), got {found}"
        raise DataFileError("size mismatch", f"the boundary maps {path}: {wanted}; {cure}")
    numbers = all(np.issubdtype(part.dtype, np.number) and part.dtype.kind != "c" for part in (depth, steps, degrees))
    if not numbers or degrees.size != 1 or float(degrees.item()) <= 0:
        wanted = "expected numbers in depth and dir_deg, and one positive number in deg_reduce"
        raise DataFileError("unreadable label", f"the boundary maps {path}: {wanted}; {cure}")
    return depth.astype(np.float32), steps.astype(np.float32) * np.float32(degrees.item()) - np.float32(180)


def encode_offsets(maps: BoundaryMaps) -> bytes:
    """Return the content of a file, compressed."""
    buffer = BytesIO()
    fields = {"depth": maps.depth, "dir_deg": maps.direction, "deg_reduce": np.array([[DEGREES_PER_STEP]])}
    savemat(buffer, fields, do_compression=True)
    return buffer.getvalue()
