"""Decoding of images and label maps (docs/protocol 1.2), with one sentence for every file that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from segcore.errors import InputError
from segcore.opencv import cv2

FaultKind = Literal[
    "unreadable image", "unreadable label", "missing label", "size mismatch", "values outside the classes"
]
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    Image.DecompressionBombError,
)  # what Pillow raises for broken files


class DataFileError(InputError):
    """A file of the user's data set cannot be used; `kind` is what `segcore data check` counts."""

    def __init__(self, kind: FaultKind, message: str) -> None:
        super().__init__(message)
        self.kind: FaultKind = kind

    def __reduce__(self) -> tuple[type[DataFileError], tuple[FaultKind, str]]:
        # Loader processes send exceptions pickled; the default would rebuild it from the message alone.
        return DataFileError, (self.kind, str(self))


def _is_truncated(data: bytes) -> bool:
    """Tell whether the end mark of a JPEG or PNG is absent; some versions of OpenCV fill the lost part with gray."""
    if data.startswith(b"\x89PNG"):
        return data.rfind(b"IEND") < 0
    if not data.startswith(b"\xff\xd8"):
        return False
    position = 2
    # Walk the header segments up to the scan: an embedded thumbnail has an end mark of its own.
    while data[position : position + 1] == b"\xff" and data[position : position + 2] != b"\xff\xda":
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return data.rfind(b"\xff\xd9", position) < 0


def read_image(path: Path, *, use_orientation: bool = True) -> np.ndarray:
    """Decode an image with OpenCV as color; gray images become three equal channels.

    Args:
        use_orientation: turn the image as its EXIF orientation says.

    Shapes:
        -> (H, W, 3) uint8 BGR

    Raises:
        DataFileError: if the file is missing, is no image or is truncated.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataFileError("unreadable image", f"cannot read the image {path}: {error.strerror}") from error
    flags = cv2.IMREAD_COLOR if use_orientation else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:  # larger than OpenCV's limit on pixels
        image = None
    if _is_truncated(data):
        message = f"the image {path} is truncated ({len(data)} bytes, no end mark)"
        raise DataFileError("unreadable image", f"{message}; copy it again or remove it")
    if image is None:
        raise DataFileError("unreadable image", f"{path} is not an image that OpenCV can decode; replace or remove it")
    return image


def read_label(path: Path) -> np.ndarray:
    """Decode a label map with Pillow, unchanged: a palette PNG gives its indices, a gray one its values.

    Shapes:
        -> (H, W) uint8, raw file values

    Raises:
        DataFileError: if the file is missing, unreadable, truncated, has color channels or values above 255.
    """
    try:
        with Image.open(path) as image:
            raw = np.array(image)  # a copy: Pillow's own memory is read-only
            mode = image.mode
    except FileNotFoundError as error:
        raise DataFileError(
            "missing label", f"expected the label {path}, which does not exist; add it or remove its image"
        ) from error
    except _UNREADABLE as error:
        raise DataFileError(
            "unreadable label", f"cannot decode the label {path} ({error}); replace it or remove its image"
        ) from error
    if raw.ndim == 3 and raw.shape[2] == 1:
        raw = raw[..., 0]
    if raw.ndim != 2:
        expected = f"expected one channel (8-bit gray or palette indices), got mode {mode}"
        raise DataFileError("unreadable label", f"the label {path}: {expected}; convert its colors to class numbers")
    if raw.dtype != np.uint8:
        if raw.max(initial=0) > 255 or raw.min(initial=0) < 0:
            kind: FaultKind = "values outside the classes"
            raise DataFileError(kind, f"the label {path} holds the value {raw.max()}, expected 8-bit values")
        raw = raw.astype(np.uint8)
    return raw


def read_pair(image_path: Path, label: np.ndarray | None, label_path: Path | None) -> np.ndarray:
    """Decode the image that belongs to a label.

    Image decoding honors the EXIF orientation, label decoding does not; where the sizes then differ, the image is
    decoded again as it is stored.

    Raises:
        DataFileError: as `read_image`, and if image and label differ in size.
    """
    image = read_image(image_path)
    if label is None or image.shape[:2] == label.shape:
        return image
    stored = read_image(image_path, use_orientation=False)
    if stored.shape[:2] == label.shape:
        return stored
    sizes = f"{label.shape[1]}x{label.shape[0]}, its image {image_path} is {image.shape[1]}x{image.shape[0]}"
    raise DataFileError("size mismatch", f"the label {label_path} is {sizes} (width x height); they must be equal")
