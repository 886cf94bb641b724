"""The memory as a picture: cosine of every two classes, and beside each class how often it was updated."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from memorynet.inspection import MemoryContent, memory_of
from segcore.report.run_report import ReportSection
from segcore.weights.files import LoadedCheckpoint

_INK, _QUIET, _EMPTY, _BAR = (28, 36, 48), (102, 113, 128), (226, 229, 233), (37, 99, 201)
_LONGEST_NAME = 26
_CELL = (13, 36)
"""Smallest and largest side of a cell, pixels."""
_NUMBERS_FROM = 28
"""Side of a cell from which its number is written into it."""
_GAP, _BARS = 14, 150


@dataclass(frozen=True)
class _Layout:
    cell: int
    left: int
    top: int
    side: int
    title_height: int

    @property
    def right(self) -> int:
        return self.left + self.side

    @property
    def bottom(self) -> int:
        return self.top + self.side


def draw_memory(content: MemoryContent, order: Sequence[int]) -> np.ndarray:
    """Draw the similarity matrix with the class names, a bar of updates per class, and the scale of the colors.

    The colors run from the smallest similarity (rounded down to a tenth) to 1; classes never seen are gray.

    Args:
        order: the classes from top to bottom and from left to right.

    Shapes:
        -> (h, w, 3) uint8 RGB
    """
    count = len(order)
    cell = int(np.clip(760 // count, *_CELL))
    names = [_short(content.names[number]) for number in order]
    font, heading = ImageFont.load_default(min(cell - 1, 14)), ImageFont.load_default(20)
    widest = max(int(font.getlength(name)) for name in names)
    title = f"Memory: {count} classes, {content.rows.shape[1]} slot{'s' * (content.rows.shape[1] > 1)} per class"
    layout = _Layout(cell, widest + 2 * _GAP, widest + 5 * _GAP, cell * count, 3 * _GAP)
    width = max(layout.right + _BARS + 6 * _GAP, int(heading.getlength(title)) + 2 * _GAP, 420)
    image = Image.new("RGB", (width, layout.bottom + 5 * _GAP), "white")
    canvas = ImageDraw.Draw(image)
    canvas.text((_GAP, _GAP), title, fill=_INK, font=heading)
    cosine = content.similarity()[np.ix_(order, order)]
    low = float(np.floor(10 * np.nanmin(cosine)) / 10) if not np.isnan(cosine).all() else 0.0
    low = min(low, 0.9)
    image.paste(Image.fromarray(_colors(cosine, low).repeat(cell, 0).repeat(cell, 1)), (layout.left, layout.top))
    _draw_names(image, canvas, layout, names, content.is_empty[list(order)], font)
    if cell >= _NUMBERS_FROM:
        _draw_numbers(canvas, layout, cosine, low)
    _draw_updates(canvas, layout, content, order, font)
    _draw_scale(image, canvas, layout, low, "gray: never seen" if content.is_empty.any() else "")
    return np.asarray(image)


def report_sections(loaded: LoadedCheckpoint) -> tuple[ReportSection, ...]:
    """Return what a run's page shows of its memory: the picture with similar classes beside each other."""
    content = memory_of(loaded)
    pairs = [f"{content.names[a]} and {content.names[b]} ({cosine:.2f})" for a, b, cosine in content.closest(3)]
    empty = [name for name, is_empty in zip(content.names, content.is_empty, strict=True) if is_empty]
    text = "Cosine similarity of the classes' vectors, similar classes beside each other, and updates of each class."
    text += f" Most similar: {', '.join(pairs)}." if pairs else ""
    text += f" Never seen: {', '.join(empty)}." if empty else ""
    return (ReportSection("Memory", text, encode_png(draw_memory(content, content.grouped()))),)


def encode_png(picture: np.ndarray) -> bytes:
    """Return the bytes of a PNG file of an RGB picture."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _colors(cosine: np.ndarray, low: float) -> np.ndarray:
    """Color cosines between `low` and 1; NaN is gray: (h, w) -> (h, w, 3) uint8 RGB."""
    levels = (255 * np.clip((np.nan_to_num(cosine) - low) / (1 - low), 0, 1)).astype(np.uint8)
    colors = cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[..., ::-1]
    return np.where(np.isnan(cosine)[..., None], np.array(_EMPTY, np.uint8), colors)


def _draw_names(
    image: Image.Image,
    canvas: ImageDraw.ImageDraw,
    layout: _Layout,
    names: Sequence[str],
    is_empty: np.ndarray,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    for i, name in enumerate(names):
        color, place = _QUIET if is_empty[i] else _INK, layout.cell * i + layout.cell // 2
        canvas.text((layout.left - 6, layout.top + place), name, fill=color, font=font, anchor="rm")
        strip = Image.new("RGB", (layout.left, layout.cell), "white")
        ImageDraw.Draw(strip).text((0, layout.cell // 2), name, fill=color, font=font, anchor="lm")
        image.paste(strip.rotate(90, expand=True), (layout.left + layout.cell * i, layout.top - layout.left - 4))


def _draw_numbers(canvas: ImageDraw.ImageDraw, layout: _Layout, cosine: np.ndarray, low: float) -> None:
    font = ImageFont.load_default(11)
    for (row, column), value in np.ndenumerate(cosine):
        if np.isnan(value):
            continue
        is_bright = value > low + 0.6 * (1 - low)
        text = f"{value:.2f}".replace("0.", ".", 1) if value < 0.995 else "1"
        place = (layout.left + (column + 0.5) * layout.cell, layout.top + (row + 0.5) * layout.cell)
        canvas.text(place, text, fill=_INK if is_bright else "white", font=font, anchor="mm")


def _draw_updates(
    canvas: ImageDraw.ImageDraw,
    layout: _Layout,
    content: MemoryContent,
    order: Sequence[int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Draw a bar per class, of the share of training steps that it was seen in, or a note where that is not known."""
    left, head = layout.right + _GAP, ImageFont.load_default(13)
    if content.updates is None:
        canvas.text((left, layout.top), "updates: not counted\nin this file", fill=_QUIET, font=head)
        return
    total = f" (of {content.iteration})" if content.iteration else ""
    canvas.text((left, layout.top - 8), f"steps with the class{total}", fill=_QUIET, font=head, anchor="ls")
    most = max(content.iteration, int(content.updates.max()))
    for i, number in enumerate(order):
        count, top = int(content.updates[number]), layout.top + i * layout.cell
        length = _BARS * count / most
        canvas.rectangle((left, top + 2, left + length, top + layout.cell - 2), fill=_BAR if count else None)
        place = (left + length + 5, top + layout.cell // 2)
        canvas.text(place, str(count) if count else "never", fill=_INK, font=font, anchor="lm")


def _draw_scale(image: Image.Image, canvas: ImageDraw.ImageDraw, layout: _Layout, low: float, note: str) -> None:
    width, top = min(max(layout.side, 160), 320), layout.bottom + _GAP
    ramp = _colors(np.linspace(low, 1, width)[None].repeat(_GAP, 0), low)
    image.paste(Image.fromarray(ramp), (layout.left, top))
    font = ImageFont.load_default(12)
    for value, place, anchor in ((low, 0, "la"), ((low + 1) / 2, width // 2, "ma"), (1.0, width, "ra")):
        canvas.text((layout.left + place, top + _GAP + 5), f"{value:g}", fill=_INK, font=font, anchor=anchor)
    text = f"cosine similarity\n{note}" if note else "cosine similarity"
    canvas.text((layout.left + width + _GAP, top), text, fill=_QUIET, font=font)
