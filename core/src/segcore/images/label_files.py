"""Label maps and overlays as picture files, and the encodings of the test servers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from segcore.data.base import ClassTable, load_classes
from segcore.data.labels import cityscapes_label_ids, cityscapes_train_ids, reduce_zero_label
from segcore.errors import InputError
from segcore.files import atomic_write
from segcore.images.visualize import overlay, with_legend
from segcore.opencv import cv2

MADE_WITH = "segcore"
"""Keyword of the text in a PNG that says how a label map was made."""


def save_label(path: Path, label: np.ndarray, palette: np.ndarray | None, made_with: str = "") -> Path:
    """Write a label map as PNG: 8 bit, with colors where a palette is given; 16 bit gray above 255 classes.

    Args:
        made_with: text that is kept in the file, for `made_with`.

    Shapes:
        label (H, W) integers, palette (K, 3) uint8 RGB
    """
    if label.dtype.itemsize > 1 and label.max(initial=0) > 255:
        picture = Image.fromarray(label.astype(np.uint16))
    else:
        picture = Image.fromarray(label.astype(np.uint8))
        if palette is not None:
            picture.putpalette(np.asarray(palette, np.uint8)[:256].tobytes())
    texts = PngInfo()
    if made_with:
        texts.add_text(MADE_WITH, made_with)
    with atomic_write(path, is_flushed=False) as file:
        picture.save(file, "PNG", pnginfo=texts)
    return path


def made_with(path: Path) -> str:
    """Return the text that `save_label` kept in a label map; empty where there is none, or no such file."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return str(picture.info.get(MADE_WITH, ""))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # of files that are no whole PNG
        return ""


def save_overlay(
    path: Path, image: np.ndarray, label: np.ndarray, classes: ClassTable, opacity: float, *, legend: bool = False
) -> Path:
    """Write the class colors blended over an image, in the format of the suffix.

    Args:
        legend: put the names of the classes that occur below it; the file is then higher than the image.

    Shapes:
        image (H, W, 3) uint8 BGR, label (H, W)
    """
    picture = overlay(image, label, classes.palette, opacity)
    _, data = cv2.imencode(path.suffix, with_legend(picture, label, classes) if legend else picture)
    with atomic_write(path, is_flushed=False) as file:
        file.write(data.tobytes())
    return path


def encode_submission(dataset_name: str, label: np.ndarray) -> np.ndarray:
    """Return class numbers in the encoding of a data set's test server (docs/protocol 8).

    Shapes:
        (H, W) train ids -> (H, W) uint8: ade20k id + 1; cityscapes the dataset's own label ids

    Raises:
        InputError: for a data set without a known encoding.
    """
    encoders = {"ade20k": lambda ids: (ids + 1).astype(np.uint8), "cityscapes": cityscapes_label_ids}
    if dataset_name not in encoders:
        raise InputError(
            f"--format-only knows the test servers of {' and '.join(encoders)}, not of {dataset_name}; --out alone "
            "writes label maps of class numbers"
        )
    return encoders[dataset_name](label)


def submission_palette(dataset_name: str) -> np.ndarray | None:
    """Return the colors (256, 3) uint8 RGB of a submission's values; None where the server wants gray files."""
    if dataset_name != "cityscapes":
        return None
    palette = np.zeros((256, 3), np.uint8)
    colors = load_classes(dataset_name).palette
    palette[cityscapes_label_ids(np.arange(len(colors), dtype=np.uint8))] = colors
    return palette


def decode_submission(dataset_name: str, values: np.ndarray) -> np.ndarray:
    """Return class numbers from the encoding of a data set's test server, 255 for values that are no class.

    Shapes:
        (H, W) uint8 -> (H, W) uint8

    Raises:
        InputError: for a data set without a known encoding.
    """
    decoders = {"ade20k": reduce_zero_label, "cityscapes": cityscapes_train_ids}
    if dataset_name not in decoders:
        raise InputError(
            f"only {' and '.join(decoders)} have a test server's encoding, not {dataset_name}; expected class numbers"
        )
    return decoders[dataset_name](values)
