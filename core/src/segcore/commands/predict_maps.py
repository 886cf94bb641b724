"""What a prediction writes beside label map and overlay, and pictures that are predicted in strips."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from segcore.evaluation.strips import native_protocol, slide_strips
from segcore.files import atomic_write
from segcore.images.label_files import save_overlay
from segcore.images.row_files import ArrayRows, ImageRows, PngRows
from segcore.layers.precision import mixed_precision
from segcore.predictor import Predictor

_PREVIEW = 2048
"""Pixels of the longer side of a large picture's overlay, at most; blending takes 100 bytes for each of its pixels."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Where the results of one image go; None is not written.

    Attributes:
        label: palette PNG of class numbers.
        overlay: of the suffix's format.
        confidence: 8-bit gray PNG, 255 times the probability of the class.
        probabilities: .npy of float16, (H, W, K).
    """

    label: Path
    overlay: Path
    confidence: Path | None = None
    probabilities: Path | None = None

    def wanted(self) -> list[Path]:
        """Return the files in the order of writing."""
        return [path for path in (self.label, self.overlay, self.confidence, self.probabilities) if path is not None]

    @property
    def needs_probabilities(self) -> bool:
        """Whether more than the class is asked for."""
        return self.confidence is not None or self.probabilities is not None


def save_maps(outputs: Outputs, probabilities: Tensor) -> list[Path]:
    """Write confidence and probabilities (K, H, W) of an image; returns the files.

    Raises:
        InputError: if one cannot be written.
    """
    size = (probabilities.shape[1], probabilities.shape[2])
    with ExitStack() as stack:
        confidence, every = _open_maps(stack, outputs, size, len(probabilities))
        values = probabilities.float().cpu().numpy()
        if confidence:
            confidence.write(_confidence(values))
            confidence.close()
        if every:
            every.write(values.transpose(1, 2, 0))
    return [path for path in (outputs.confidence, outputs.probabilities) if path is not None]


def _open_maps(
    stack: ExitStack, outputs: Outputs, size: tuple[int, int], num_classes: int
) -> tuple[PngRows | None, ArrayRows | None]:
    confidence = every = None
    if outputs.confidence:
        confidence = PngRows(stack.enter_context(atomic_write(outputs.confidence)), size, "gray")
    if outputs.probabilities:
        every = ArrayRows(stack.enter_context(atomic_write(outputs.probabilities)), (*size, num_classes))
    return confidence, every


def _confidence(values: np.ndarray) -> np.ndarray:
    """Return 255 times the highest of the probabilities (K, n, W), rounded, (n, W) uint8."""
    return np.round(values.max(axis=0) * 255).astype(np.uint8)


def predict_in_strips(
    predictor: Predictor, source: Path, outputs: Outputs, opacity: float, *, legend: bool, made_with: str = ""
) -> list[Path]:
    """Predict a picture of any size in constant memory: sliding windows at its own resolution, rows in and rows out.

    The overlay is a preview of at most 2048 pixels: every n-th of them.

    Args:
        made_with: text that is kept in the label map, which comes last, see `save_label`.

    Raises:
        InputError: if the picture cannot be read in strips, or a file cannot be written.
    """
    image = ImageRows(source)
    classes, size = predictor.classes, image.size
    preview = _Preview(max(-(-max(size) // _PREVIEW), 1))
    reader = _Seen(image, preview)
    is_wide = len(classes.names) > 255
    with ExitStack() as stack:
        label_file = stack.enter_context(atomic_write(outputs.label))
        palette = None if is_wide else classes.palette
        kind, bits = ("gray", 16) if is_wide else ("palette", 8)
        label_rows = PngRows(label_file, size, kind, bits=bits, palette=palette, made_with=made_with)
        confidence, every = _open_maps(stack, outputs, size, len(classes.names))
        for rows, label, probabilities in _strips(predictor, reader, outputs.needs_probabilities):
            label_rows.write(label)
            preview.add_label(rows.start, label)
            if confidence and probabilities is not None:
                confidence.write(_confidence(probabilities))
            if every and probabilities is not None:
                every.write(probabilities.transpose(1, 2, 0))
        label_rows.close()
        if confidence:
            confidence.close()
        save_overlay(outputs.overlay, preview.picture(), preview.label(), classes, opacity, legend=legend)
    return outputs.wanted()


def _strips(
    predictor: Predictor, reader: _Seen, with_probabilities: bool
) -> Iterator[tuple[slice, np.ndarray, np.ndarray | None]]:
    """Yield rows, their labels (n, W), and their probabilities (K, n, W) where asked for."""
    protocol = native_protocol(predictor.protocol)
    are_probabilities = protocol.family == "S" and protocol.probabilities
    kind = np.uint8 if len(predictor.classes.names) <= 255 else np.uint16
    with mixed_precision(predictor.device, predictor.amp):
        for rows, values in slide_strips(predictor.model, reader, protocol):
            label = values.argmax(dim=0).cpu().numpy().astype(kind)
            probabilities = None
            if with_probabilities:
                probabilities = (values if are_probabilities else values.softmax(dim=0)).float().cpu().numpy()
            yield rows, label, probabilities


class _Preview:
    """Every step-th pixel of a picture and of its label map."""

    def __init__(self, step: int) -> None:
        self.step = step
        self._pixels: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def _thinned(self, first: int, rows: np.ndarray) -> np.ndarray:
        return rows[-first % self.step :: self.step, :: self.step].copy()

    def add_pixels(self, first: int, rows: np.ndarray) -> None:
        """Take rows of the picture that begin with row `first`."""
        self._pixels.append(self._thinned(first, rows))

    def add_label(self, first: int, rows: np.ndarray) -> None:
        """Take rows of the label map that begin with row `first`."""
        self._labels.append(self._thinned(first, rows))

    def picture(self) -> np.ndarray:
        """Return the picture, (h, w, 3)."""
        return np.concatenate(self._pixels)

    def label(self) -> np.ndarray:
        """Return the label map, (h, w)."""
        return np.concatenate(self._labels)


class _Seen:
    """A picture's rows, shown to the preview as they are read."""

    def __init__(self, image: ImageRows, preview: _Preview) -> None:
        self.size, self._image, self._preview = image.size, image, preview
        self._next = 0

    def read(self, count: int) -> np.ndarray:
        """Return the next rows, see `ImageRows.read`."""
        rows = self._image.read(count)
        self._preview.add_pixels(self._next, rows)
        self._next += count
        return rows
