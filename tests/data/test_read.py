"""Decoding: limits that are checked before it, values and bands that are scaled or refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from segcore.commands.main import main
from segcore.data import create_dataset
from segcore.data.read import DataFileError, read_image, read_label
from segcore.recipe import Data
from tests.data.test_datasets import SIZE, noise, save
from tests.data.test_folder import make_folder


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(cv2, "imdecode", fail)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)


def chunk(kind: bytes, data: bytes, length: int | None = None) -> bytes:
    """Return a chunk of a PNG, with a wrong length on request."""
    size = len(data) if length is None else length
    return struct.pack(">I", size) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, idat_length: int | None = None) -> bytes:
    """Return a PNG whose header asks for an 8-bit gray image of any size."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(500)), idat_length) + chunk(b"IEND", b"")


@pytest.mark.parametrize("read", [read_image, read_label])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_an_image_of_too_many_pixels_is_refused_from_its_header(
    suffix: str,
    read,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = save(tmp_path / f"x{suffix}", np.zeros((30, 40), np.uint8))
    assert read(path, max_pixels=1200).shape[:2] == (30, 40)
    no_decoding(monkeypatch)
    with pytest.raises(DataFileError, match=rf"x\{suffix} says that it has 40x30 .* more than --data.max-pixels 1199;"):
        read(path, max_pixels=1199)


@pytest.mark.parametrize("read", [read_image, read_label])
@pytest.mark.parametrize("size", [(14_000, 13_000), (60_000, 60_000)])  # beyond our limit, and beyond Pillow's own
def test_the_usual_limit_refuses_what_would_take_gigabytes(
    size: tuple[int, int],
    read,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png(*size))
    no_decoding(monkeypatch)
    with pytest.raises(DataFileError, match=r"x\.png .*more .*--data\.max-pixels 178956970"):
        read(path)


def test_a_chunk_that_claims_four_gigabytes_is_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png(20, 10, idat_length=0xFF002000))
    no_decoding(monkeypatch)
    with pytest.raises(DataFileError, match=r"x\.png is truncated"):
        read_image(path)


def test_a_larger_limit_admits_larger_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = save(tmp_path / "x.png", np.zeros((30, 40), np.uint8))
    assert read_label(path, 1200).shape == (30, 40)


def test_the_options_limit_reaches_every_file_of_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path)
    for dataset in (
        create_dataset(Data(dataset="folder", max_pixels=47), str(root), "train"),
        create_dataset(Data(dataset="folder", max_pixels=47), str(root), "val"),
    ):
        with pytest.raises(DataFileError, match=r"more than --data\.max-pixels 47"):
            dataset.load(0)
    assert main(["data", "check", "folder", "--root", str(root), "--data.max-pixels", "47"]) == 2
    assert "10 x unreadable label" in capsys.readouterr().out
    assert main(["data", "check", "folder", "--root", str(root), "--max-pixels", "48"]) == 0


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_divided_by_257(suffix: str, channels: int, tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16)[::7][: 96 * 96].reshape(96, 96)
    pixels = np.stack([values] * channels, axis=2) if channels > 1 else values
    (tmp_path / f"x{suffix}").write_bytes(cv2.imencode(suffix, pixels)[1].tobytes())
    image = read_image(tmp_path / f"x{suffix}")
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.repeat(np.round(values / 257)[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((6, 8, 4), np.uint8), r"has 4 bands; expected gray or color"),
        (np.zeros((6, 8, 4), np.uint16), r"has 4 bands; expected gray or color"),
        (np.zeros((6, 8, 3), np.float32), r"holds signed or floating-point values of 32 bits"),
        (np.zeros((6, 8), np.float32), r"holds signed or floating-point values of 32 bits"),
    ],
    ids=["4 bands", "4 bands of 16 bits", "float color", "float"],
)
def test_a_tiff_of_other_bands_or_values_is_refused(pixels: np.ndarray, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(cv2.imencode(".tiff", pixels)[1].tobytes())
    with pytest.raises(DataFileError, match=rf"x\.tif {message}"):
        read_image(path)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "CMYK", "P", "1"])
def test_a_tiff_of_gray_or_color_is_read(mode: str, tmp_path: Path) -> None:
    Image.fromarray(noise()).convert(mode).save(tmp_path / "x.tif")
    assert read_image(tmp_path / "x.tif").shape == (*SIZE, 3)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_an_alpha_channel_is_left_out(suffix: str, tmp_path: Path) -> None:
    color = noise()
    rgba = np.dstack([color, np.full(SIZE, 255, np.uint8)])
    np.testing.assert_array_equal(read_image(save(tmp_path / f"x{suffix}", rgba)), color[..., ::-1])


def test_a_band_that_is_not_declared_as_alpha_is_none(tmp_path: Path) -> None:
    """As satellite images are written: red, green, blue, infrared, the fourth unspecified."""
    Image.frombytes("RGBX", (8, 6), bytes(4 * 8 * 6)).save(tmp_path / "x.tif")
    with pytest.raises(DataFileError, match="has 4 bands"):
        read_image(tmp_path / "x.tif")


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF"])
def test_a_lossy_mask_is_refused_whatever_it_is_called(kind: str, tmp_path: Path) -> None:
    content = io.BytesIO()
    options = {"compression": "jpeg"} if kind == "TIFF" else {}
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(content, kind, **options)
    (tmp_path / "mask.png").write_bytes(content.getvalue())
    with pytest.raises(DataFileError, match=r"mask\.png is compressed with loss") as caught:
        read_label(tmp_path / "mask.png")
    assert caught.value.kind == "lossy label"
