"""Pictures that are read and written some rows at a time, in memory that does not grow with their height."""

from __future__ import annotations

import struct
import zlib
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from segcore.errors import InputError
from segcore.images.label_files import MADE_WITH
from segcore.opencv import cv2


class ImageRows:
    """The rows of an image file, from the top down, by libvips: PNG, TIFF, JPEG (each decoded as it is read) and more.

    Values are those of `read_image`: 16 bits divided by 257, gray as three channels, alpha left out.

    Raises:
        InputError: without the extra `segcore[large]`, or for a file that it cannot read, of other bands, or with a
            rotation in its EXIF data, which needs the whole picture.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._vips: Any = import_module("pyvips")
        except (ImportError, OSError) as error:
            raise InputError("pictures in strips need libvips: pip install 'segcore[large]'") from error
        self._path, self._next = path, 0
        try:
            self._image = self._vips.Image.new_from_file(str(path), access="sequential", fail_on="truncated")
        except self._vips.Error as error:
            raise self._unreadable(error) from error
        image = self._image
        if image.get_typeof("orientation") and image.get("orientation") != 1:
            raise InputError(f"{path} has a rotation in its EXIF data; strips need it written into the pixels")
        if image.format not in ("uchar", "ushort") or image.bands > 4 or image.interpretation == "cmyk":
            held = f"{image.bands} bands of {image.format}"
            raise InputError(f"the image {path} holds {held}; expected gray or color of 8 or 16 bits")
        self.size: tuple[int, int] = (image.height, image.width)
        self._region = self._vips.Region.new(image)

    def _unreadable(self, error: Exception) -> InputError:
        reason = str(error).strip().splitlines()[-1].strip()
        return InputError(f"cannot read the image {self._path} in strips: {reason}")

    def read(self, count: int) -> np.ndarray:
        """Return the next rows (count, W, 3) uint8 BGR.

        Raises:
            InputError: if the file is damaged there.
        """
        image = self._image
        try:
            data = self._region.fetch(0, self._next, image.width, count)
        except self._vips.Error as error:
            raise self._unreadable(error) from error
        self._next += count
        kind = np.uint8 if image.format == "uchar" else np.uint16
        rows = np.frombuffer(data, kind).reshape(count, image.width, image.bands)
        if kind is np.uint16:
            rows = cv2.convertScaleAbs(rows, alpha=1 / 257).reshape(rows.shape)
        return np.repeat(rows[..., :1], 3, axis=2) if image.bands < 3 else np.ascontiguousarray(rows[..., 2::-1])


class PngRows:
    """A PNG that is written from the top down.

    Args:
        file: opened to write.
        size: height and width.
        kind: gray values, or indices of a palette.
        bits: of a value.
        palette: (K, 3) uint8 RGB of the indices.
        made_with: text that is kept in the file, see `segcore.images.label_files.made_with`.
    """

    def __init__(
        self,
        file: IO[bytes],
        size: tuple[int, int],
        kind: Literal["gray", "palette"],
        *,
        bits: Literal[8, 16] = 8,
        palette: np.ndarray | None = None,
        made_with: str = "",
    ) -> None:
        self._file, self._packer, self._type = file, zlib.compressobj(6), ">u2" if bits == 16 else "u1"
        file.write(b"\x89PNG\r\n\x1a\n")
        color = 0 if kind == "gray" else 3
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], bits, color, 0, 0, 0))
        if palette is not None:
            self._chunk(b"PLTE", np.asarray(palette, np.uint8)[:256].tobytes())
        if made_with:
            self._chunk(b"tEXt", f"{MADE_WITH}\0{made_with}".encode("latin-1"))

    def _chunk(self, name: bytes, data: bytes) -> None:
        if len(data) or name != b"IDAT":
            self._file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))

    def write(self, rows: np.ndarray) -> None:
        """Append rows (n, W)."""
        # 0: the values of a row are stored as they are, not as differences
        lines = b"".join(b"\0" + row.tobytes() for row in rows.astype(self._type, copy=False))
        self._chunk(b"IDAT", self._packer.compress(lines))

    def close(self) -> None:
        """Write the end."""
        self._chunk(b"IDAT", self._packer.flush())
        self._chunk(b"IEND", b"")


class ArrayRows:
    """A NumPy file (.npy) of float16 values (H, W, K) that is written from the top down."""

    def __init__(self, file: IO[bytes], shape: tuple[int, int, int]) -> None:
        self._file = file
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(file, header)

    def write(self, rows: np.ndarray) -> None:
        """Append rows (n, W, K)."""
        self._file.write(np.ascontiguousarray(rows, "<f2").tobytes())
