"""Images and masks of every format, damaged as disks, copies and people do it: pixels or one sentence (issue 18).

A few run by default; `nox -s faults` makes 1,000.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segcore.commands.predict import PredictOptions, plan
from segcore.commands.predict import run as run_plan
from segcore.data.read import read_image, read_label, read_pair, stored_form
from segcore.errors import InputError
from tests.faults.damage import damaged
from tests.faults.hostile import bounded
from tests.test_predictor import color_predictor

EACH = 100
"""Files of one test."""
MAX_PIXELS = 100_000_000
SIZE = (24, 40)


def _noise(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)


def _file(pixels: np.ndarray, kind: str, mode: str = "", **options: Any) -> bytes:
    content = io.BytesIO()
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(content, kind, **options)
    return content.getvalue()


def _with_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


IMAGES: tuple[tuple[str, Callable[[], bytes]], ...] = (
    (".jpg", lambda: _file(_noise(*SIZE, 3), "JPEG")),
    (".jpg", lambda: _file(_noise(*SIZE, 3), "JPEG", progressive=True, exif=_with_exif())),
    (".jpg", lambda: _file(_noise(*SIZE, 3), "JPEG", "CMYK")),
    (".png", lambda: _file(_noise(*SIZE, 3), "PNG")),
    (".png", lambda: _file(_noise(*SIZE, dtype=np.uint16), "PNG")),
    (".png", lambda: _file(_noise(*SIZE, 3), "PNG", "P")),
    (".bmp", lambda: _file(_noise(*SIZE, 3), "BMP")),
    (".tif", lambda: _file(_noise(*SIZE, 3), "TIFF")),
    (".tif", lambda: _file(_noise(*SIZE, 3), "TIFF", compression="tiff_lzw")),
    (".webp", lambda: _file(_noise(*SIZE, 3), "WEBP")),
)
MASKS: tuple[tuple[str, Callable[[], bytes]], ...] = (
    (".png", lambda: _file(_noise(*SIZE) % 7, "PNG")),
    (".png", lambda: _file(_noise(*SIZE) % 7, "PNG", "P")),
    (".png", lambda: _file(_noise(*SIZE) % 2 * 255, "PNG", "1")),
    (".bmp", lambda: _file(_noise(*SIZE) % 7, "BMP")),
    (".tif", lambda: _file(_noise(*SIZE) % 7, "TIFF")),
    (".tif", lambda: _file(_noise(*SIZE) % 7, "TIFF", compression="tiff_adobe_deflate")),
    (".gif", lambda: _file(_noise(*SIZE) % 7, "GIF")),
)


def parts(quick: int, total: int) -> list[Any]:
    return [part if part < quick else pytest.param(part, marks=pytest.mark.faults) for part in range(total)]


@pytest.mark.parametrize("part", parts(1, 6))
def test_damaged_images_are_pixels_or_one_sentence(part: int, tmp_path: Path) -> None:
    for seed in range(part * EACH, (part + 1) * EACH):
        suffix, make = IMAGES[seed % len(IMAGES)]
        path = tmp_path / f"image{suffix}"
        path.write_bytes(damaged(make(), seed))
        with bounded(), _one_sentence(path):
            stored_form(path)
            image = read_image(path, max_pixels=MAX_PIXELS)
            assert image.dtype == np.uint8
            assert image.ndim == 3
            assert image.shape[2] == 3


@pytest.mark.parametrize("part", parts(1, 4))
def test_damaged_masks_are_values_or_one_sentence(part: int, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(IMAGES[3][1]())
    for seed in range(part * EACH, (part + 1) * EACH):
        suffix, make = MASKS[seed % len(MASKS)]
        path = tmp_path / f"mask{suffix}"
        path.write_bytes(damaged(make(), seed))
        with bounded(), _one_sentence(path):
            label = read_label(path, MAX_PIXELS)
            assert label.dtype == np.uint8
            assert label.ndim == 2
            assert read_pair(image, label, path, MAX_PIXELS).shape[:2] == label.shape


class _one_sentence(suppress):  # noqa: N801 - used like a function
    """Let the block raise an `InputError` of one line that names the file."""

    def __init__(self, path: Path) -> None:
        super().__init__(InputError)
        self.path = path

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        if isinstance(error, InputError):
            assert str(self.path) in str(error)
            assert "\n" not in str(error)
        return super().__exit__(kind, error, trace)


@pytest.mark.skipif(not hasattr(__import__("os"), "mkfifo"), reason="Windows has other names")
def test_an_image_whose_name_is_not_utf_8_is_predicted_or_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    name = folder / b"caf\xe9.png".decode("utf-8", "surrogateescape")
    name.write_bytes(IMAGES[3][1]())
    options = PredictOptions(checkpoint="", inputs=(str(folder),), out=str(tmp_path / "out"))
    with pytest.raises(InputError, match="is not UTF-8; rename it"):
        plan(options)
    single = PredictOptions(checkpoint="", inputs=(str(name),), out=str(tmp_path / "out"))
    written = run_plan(color_predictor(), plan(single), "x")
    assert all(path.is_file() for path in written)
    assert "wrote 1 label maps" in capsys.readouterr().out
