"""Pictures read and written by rows: the same values as whole."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segcore.data.read import read_image
from segcore.errors import InputError
from segcore.images.label_files import made_with
from segcore.images.row_files import ArrayRows, ImageRows, PngRows


def _values(dtype: type[np.generic], top: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, top, (37, 23)).astype(dtype)


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (16, np.uint16)])
def test_a_png_by_rows_reads_back(bits: int, dtype: type[np.generic]) -> None:
    values = _values(dtype, 2**bits)
    file = io.BytesIO()
    rows = PngRows(file, (37, 23), "gray", bits=bits)  # pyright: ignore[reportArgumentType]
    for start in range(0, 37, 5):
        rows.write(values[start : start + 5])
    rows.close()
    with Image.open(file) as picture:
        picture.verify()  # every checksum
    np.testing.assert_array_equal(np.asarray(Image.open(file)), values)


def test_a_palette_png_keeps_indices_colors_and_how_it_was_made(tmp_path: Path) -> None:
    values, palette = _values(np.uint8, 3), np.arange(9, dtype=np.uint8).reshape(3, 3)
    file = io.BytesIO()
    rows = PngRows(file, (37, 23), "palette", palette=palette, made_with="by this test")
    rows.write(values)
    rows.close()
    (tmp_path / "label.png").write_bytes(file.getvalue())
    assert made_with(tmp_path / "label.png") == "by this test"
    picture = Image.open(file)
    assert picture.mode == "P"
    assert (picture.getpalette() or [])[:9] == list(range(9))
    np.testing.assert_array_equal(np.asarray(picture), values)


def test_an_array_by_rows_reads_back() -> None:
    values = np.random.default_rng(0).random((8, 5, 3)).astype(np.float16)
    file = io.BytesIO()
    rows = ArrayRows(file, (8, 5, 3))
    rows.write(values[:3])
    rows.write(values[3:])
    file.seek(0)
    np.testing.assert_array_equal(np.load(file), values)


@pytest.mark.parametrize("name", ["rgb.png", "gray.png", "palette.png", "rgba.png", "deep.png", "rgb.tif", "tiled.tif"])
def test_rows_are_those_of_the_whole_picture(tmp_path: Path, name: str) -> None:
    import pyvips as vips

    rgb = np.random.default_rng(1).integers(0, 256, (50, 31, 3), np.uint8)
    path = tmp_path / name
    if name == "palette.png":
        Image.fromarray(rgb).quantize(16).save(path)
    elif name == "deep.png":
        Image.fromarray(np.random.default_rng(1).integers(0, 65536, (50, 31)).astype(np.uint16)).save(path)
    elif name == "tiled.tif":
        vips.Image.new_from_array(rgb).tiffsave(str(path), tile=True, tile_width=16, tile_height=16)
    else:
        Image.fromarray(rgb).convert({"gray": "L", "rgba": "RGBA"}.get(path.stem, "RGB")).save(path)
    source = ImageRows(path)
    assert source.size == (50, 31)
    rows = np.concatenate([source.read(count) for count in (1, 20, 29)])
    # OpenCV takes no tiles of this size
    expected = rgb[..., ::-1] if name == "tiled.tif" else read_image(path)
    np.testing.assert_array_equal(rows, expected)


def test_what_strips_cannot_take_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"cannot read the image .*broken\.png in strips"):
        ImageRows(tmp_path / "broken.png")
    picture = Image.fromarray(np.zeros((8, 6, 3), np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    with pytest.raises(InputError, match="has a rotation in its EXIF data"):
        ImageRows(tmp_path / "turned.jpg")
    picture.convert("CMYK").save(tmp_path / "ink.jpg")
    with pytest.raises(InputError, match="expected gray or color of 8 or 16 bits"):
        ImageRows(tmp_path / "ink.jpg")
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:200_000])
    source = ImageRows(tmp_path / "cut.png")
    with pytest.raises(InputError, match=r"cannot read the image .*cut\.png in strips"):
        source.read(400)


def test_the_extra_is_named_where_libvips_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyvips", None)
    with pytest.raises(InputError, match=r"pip install 'segcore\[large\]'"):
        ImageRows(tmp_path / "any.png")
