"""Decoding of images and label maps (docs/protocol 1.2), with one sentence for every file that cannot be used."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    EXTRASAMPLES,
    IMAGELENGTH,
    IMAGEWIDTH,
    PHOTOMETRIC_INTERPRETATION,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    ImageFileDirectory_v2,
)

from segcore.errors import InputError
from segcore.opencv import cv2
from segcore.recipe import MAX_PIXELS

FaultKind = Literal[
    "unreadable image",
    "unreadable label",
    "missing label",
    "lossy label",
    "size mismatch",
    "values outside the classes",
]
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000", "PPM")
"""What both Pillow and OpenCV decode; Pillow's others start programs or have no pixels."""
_LOSSY = ("JPEG", "MPO", "WEBP")
_BIG_TIFF = (b"II+\0", b"MM\0+")
_TIFF = (b"II*\0", b"MM\0*", *_BIG_TIFF)
_COLOR_BANDS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}  # of TIFF's photometric interpretations
_ALPHA = ((), (1,), (2,))  # TIFF's extra samples: none, or one that is declared as alpha
_ORIENTATION = 0x0112
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    struct.error,
    OverflowError,
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
        # Walk the chunks: OpenCV takes memory for the length that one states, which may be 4 GiB in a damaged file.
        position, kind = 8, b""
        while kind != b"IEND" and position < len(data):
            kind = data[position + 4 : position + 8]
            position += 12 + int.from_bytes(data[position : position + 4], "big")
        return kind != b"IEND" or position > len(data)
    if not data.startswith(b"\xff\xd8"):
        return False
    position = 2
    # Walk the header segments up to the scan: an embedded thumbnail has an end mark of its own.
    while data[position : position + 1] == b"\xff" and data[position : position + 2] != b"\xff\xda":
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return data.rfind(b"\xff\xd9", position) < 0


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read; a pipe would block, and a device never end.

    Raises:
        OSError: also where it is no regular file.
    """
    if path.exists() and not path.is_file():
        raise OSError("it is no regular file, but a folder, a pipe or a device")
    return open(path, "rb")


def _refuse_size(path: Path, width: int, height: int, max_pixels: int, kind: FaultKind) -> None:
    if width * height > max_pixels:
        size = f"{width}x{height} (width x height), more than --data.max-pixels {max_pixels}"
        raise DataFileError(
            kind, f"{path} says that it has {size}; raise the option, or remove the file if it is broken"
        )


def _open_header(file: BinaryIO, path: Path, max_pixels: int, kind: FaultKind) -> Image.Image:
    """Open an image with Pillow, which reads its header only, and refuse one of too many pixels.

    Raises:
        DataFileError: if it is too large; Pillow's own errors if it is no image.
    """
    if Image.MAX_IMAGE_PIXELS and max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow refuses twice that; asked for with --data.max-pixels
    try:
        image = Image.open(file, formats=_FORMATS)
    except Image.DecompressionBombError as error:
        message = f"{path} has more pixels than --data.max-pixels {max_pixels}: {error}"
        raise DataFileError(kind, f"{message}; raise the option, or remove a broken file") from error
    _refuse_size(path, image.width, image.height, max_pixels, kind)
    return image


def _tiff_tags(file: BinaryIO) -> ImageFileDirectory_v2:
    """Return what the first page of a TIFF says about itself; Pillow itself opens no 16-bit color and no floats."""
    header = file.read(8)
    tags = ImageFileDirectory_v2(header + file.read(8) if header[:4] in _BIG_TIFF else header)
    file.seek(tags.next)
    tags.load(file)
    return tags


def _check_tiff(tags: ImageFileDirectory_v2, path: Path, max_pixels: int) -> None:
    """Refuse a TIFF that has too many pixels, or holds something else than 8 or 16-bit gray or color.

    Raises:
        DataFileError: naming what it holds.
    """
    _refuse_size(path, int(tags[IMAGEWIDTH]), int(tags[IMAGELENGTH]), max_pixels, "unreadable image")
    bits, kinds = set(tags.get(BITSPERSAMPLE, (1,))), set(tags.get(SAMPLEFORMAT, (1,)))
    if kinds != {1} or not bits <= {1, 2, 4, 8, 16}:
        held = f"{'unsigned' if kinds == {1} else 'signed or floating-point'} values of {max(bits)} bits"
        raise DataFileError("unreadable image", f"the image {path} holds {held}; scale them to 8 or 16 bits unsigned")
    bands = tags.get(SAMPLESPERPIXEL, 1)
    extra = bands - _COLOR_BANDS.get(tags.get(PHOTOMETRIC_INTERPRETATION, -1), bands)
    if extra > 0 and tuple(tags.get(EXTRASAMPLES, (0,) * extra)) not in _ALPHA:
        message = f"the image {path} has {bands} bands; expected gray or color (an alpha band is left out)"
        raise DataFileError("unreadable image", f"{message}; write the three to be used as RGB (gdal_translate -b)")


def _has_known_header(file: BinaryIO, path: Path, max_pixels: int) -> bool:
    """Tell whether a file begins as an image; it is then at its start again.

    Raises:
        DataFileError: if it is an image that is too large, or of values or bands that networks do not take.
    """
    try:
        is_tiff = file.read(4) in _TIFF
        file.seek(0)
        if is_tiff:
            _check_tiff(_tiff_tags(file), path, max_pixels)
        else:
            _open_header(file, path, max_pixels, "unreadable image")
        file.seek(0)
    except _BROKEN:
        return False
    return True


def _decode(data: bytes, use_orientation: bool) -> np.ndarray | None:
    """Return the pixels (H, W, 3) uint8 BGR of an encoded image, None where OpenCV refuses it."""
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    flags = flags if use_orientation else flags | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # larger than OpenCV's own limit, or contradicting itself
        return None
    if image is not None and image.dtype == np.uint16:
        image = cv2.convertScaleAbs(image, alpha=1 / 257)  # rounds, and needs no copy in floats
    return image


def read_image(path: Path, *, use_orientation: bool = True, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image with OpenCV as color; gray images become three equal channels.

    16-bit values are divided by 257 and rounded, so that 65535 becomes 255; an alpha channel is left out. TIFFs of
    other values or bands are refused.

    Args:
        use_orientation: turn the image as its EXIF orientation says.
        max_pixels: an image of more is refused from its header, before anything is decoded (`--data.max-pixels`).

    Shapes:
        -> (H, W, 3) uint8 BGR

    Raises:
        DataFileError: if the file is missing, is no such image, is too large or is truncated.
    """
    try:
        with open_regular(path) as file:
            data = file.read() if _has_known_header(file, path, max_pixels) else b""
    except OSError as error:
        raise DataFileError("unreadable image", f"cannot read the image {path}: {error.strerror or error}") from error
    if _is_truncated(data):
        message = f"the image {path} is truncated ({len(data)} bytes, no end mark)"
        raise DataFileError("unreadable image", f"{message}; copy it again or remove it")
    image = _decode(data, use_orientation) if data else None
    if image is None:
        raise DataFileError("unreadable image", f"{path} is not an image that OpenCV can decode; replace or remove it")
    return image


def image_size(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return height and width of an image as `read_image` gives it, from its header where that tells.

    Raises:
        DataFileError: if it cannot be read.
    """
    try:
        with open_regular(path) as file, _open_header(file, path, max_pixels, "unreadable image") as image:
            is_turned = image.getexif().get(_ORIENTATION, 1) >= 5
            return (image.width, image.height) if is_turned else (image.height, image.width)
    except _BROKEN:  # also 16-bit color, which Pillow does not open
        height, width = read_image(path, max_pixels=max_pixels).shape[:2]
        return height, width


class Stored(NamedTuple):
    """How a file holds its pixels: bits of a value, and EXIF orientation from 1 (as it is) to 8."""

    bits: int
    orientation: int


def stored_form(path: Path) -> Stored:
    """Return what the header of an image or mask says about its pixels; the usual where it says nothing."""
    try:
        with open_regular(path) as file:
            head = file.read(32)
            file.seek(0)
            if head[:4] in _TIFF:
                tags = _tiff_tags(file)
                return Stored(max(tags.get(BITSPERSAMPLE, (1,))), int(tags.get(_ORIENTATION, 1)))
            exif = Image.open(file, formats=_FORMATS).getexif()
            return Stored(head[24] if head.startswith(b"\x89PNG") else 8, int(exif.get(_ORIENTATION, 1)))
    except _BROKEN:
        return Stored(8, 1)


def read_label(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a label map with Pillow, unchanged: a palette PNG gives its indices, a gray one its values.

    Args:
        max_pixels: as for `read_image`.

    Shapes:
        -> (H, W) uint8, raw file values

    Raises:
        DataFileError: if the file is missing, unreadable, truncated or too large, is compressed with loss, has color
            channels or values above 255.
    """
    try:
        with open_regular(path) as file, _open_header(file, path, max_pixels, "unreadable label") as image:
            if image.format in _LOSSY or image.info.get("compression") in ("jpeg", "tiff_jpeg"):
                message = f"the label {path} is compressed with loss ({image.format}), so its values are not exact"
                raise DataFileError("lossy label", f"{message}; export it anew as PNG from where it was drawn")
            raw = np.array(image)  # a copy: Pillow's own memory is read-only
            mode = image.mode
    except FileNotFoundError as error:
        raise DataFileError(
            "missing label", f"expected the label {path}, which does not exist; add it or remove its image"
        ) from error
    except _BROKEN as error:
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


def read_pair(
    image_path: Path, label: np.ndarray | None, label_path: Path | None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decode the image that belongs to a label.

    Image decoding honors the EXIF orientation, label decoding does not; where the sizes then differ, the image is
    decoded again as it is stored.

    Raises:
        DataFileError: as `read_image`, and if image and label differ in size.
    """
    image = read_image(image_path, max_pixels=max_pixels)
    if label is None or image.shape[:2] == label.shape:
        return image
    stored = read_image(image_path, use_orientation=False, max_pixels=max_pixels)
    if stored.shape[:2] == label.shape:
        return stored
    sizes = f"{label.shape[1]}x{label.shape[0]}, its image {image_path} is {image.shape[1]}x{image.shape[0]}"
    raise DataFileError("size mismatch", f"the label {label_path} is {sizes} (width x height); they must be equal")
