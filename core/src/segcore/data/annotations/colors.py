"""Masks of one color per class: a folder of them, and Pascal VOC's (SegmentationClass, also as CVAT writes it)."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from segcore.data.annotations.pictures import Annotations, ImageFinder, Picture, Raster, output_name
from segcore.data.folder import MASK_SUFFIXES, read_classes
from segcore.data.listing import find_files
from segcore.errors import InputError

_LOSSY = ("JPEG", "MPO", "WEBP")
_MOST = 254
_VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_VOID = (224, 224, 192)  # borders and difficult objects of VOC
Color = tuple[int, int, int]


def read(source: Path, images: Path | None, _: Path | None, table: Path | None = None) -> Annotations:
    """Read a folder of masks in colors.

    Args:
        images: folder of the images, of the same names.
        table: names and colors: JSON as of FolderDataset, or lines of name, red, green, blue; None numbers the colors
            that are found, by how they are written (#rrggbb).

    Raises:
        InputError: if the folder, an image or a name is missing, or there are too many colors.
    """
    masks = find_files(source, MASK_SUFFIXES)
    if not masks:
        raise InputError(f"expected masks ({', '.join(MASK_SUFFIXES)}) in {source}, found none")
    if images is None:
        raise InputError("masks in colors need the folder of their images: --images")
    colors = read_table(table) if table else _found_colors([source / name for name in masks])
    stems = {str(Path(name).with_suffix("")): name for name in ImageFinder(images).names}
    missing = [name for name in masks if str(Path(name).with_suffix("")) not in stems]
    if missing:
        raise InputError(f"the mask {source / missing[0]} has no image of its name in {images}")
    pictures = [
        Picture(
            output_name(name),
            images / stems[str(Path(name).with_suffix(""))],
            None,
            raster=Raster(read_colors, (source / name, colors, ())),
        )
        for name in masks
    ]
    return Annotations(list(colors), pictures, list(colors.values()))


def read_table(path: Path) -> dict[str, Color]:
    """Return class -> color of a table.

    Raises:
        InputError: if it cannot be read, or two classes have one name or color.
    """
    if path.suffix.lower() == ".json":
        table = read_classes(path)
        rows = [(name, *color) for name, color in zip(table.names, table.palette.tolist(), strict=True)]
    else:
        rows = _read_lines(path)
    colors: dict[str, Color] = {name: (red, green, blue) for name, red, green, blue in rows}
    if len(colors) < len(rows) or len(set(colors.values())) < len(rows):
        raise InputError(f"{path} has a name or a color twice; each class needs its own")
    return colors


def _read_lines(path: Path) -> list[tuple[str, int, int, int]]:
    rows: list[tuple[str, int, int, int]] = []
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the color table {path}: {error}") from error
    for number, line in enumerate(lines, 1):
        words = next(csv.reader([line])) if "," in line else line.rsplit(maxsplit=3)
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, values = words[0].strip(), [int(word) for word in words[1:4]]
            if len(values) < 3 or not all(0 <= value <= 255 for value in values):
                raise ValueError(line)
        except ValueError as error:
            if number == 1:
                continue  # a heading
            raise InputError(f"{path}, line {number}: expected a name and three values 0 to 255") from error
        rows.append((name, values[0], values[1], values[2]))
    if not rows:
        raise InputError(f"{path} names no color; expected lines of name, red, green, blue")
    return rows


def _found_colors(paths: Sequence[Path]) -> dict[str, Color]:
    with ThreadPoolExecutor() as pool:
        found: set[int] = set()
        for path, colors in zip(paths, pool.map(_colors_of, paths), strict=True):
            found |= set(colors.tolist())
            if len(found) > _MOST:
                raise InputError(
                    f"more than {_MOST} colors up to {path}: the masks are probably smoothed or lossy; export them "
                    "anew, or give the colors that are meant with --colors"
                )
    return {f"#{code:06x}": (code >> 16, code >> 8 & 255, code & 255) for code in sorted(found)}


def _colors_of(path: Path) -> np.ndarray:
    return np.unique(_codes(path))


def _codes(path: Path) -> np.ndarray:
    """Return red * 65536 + green * 256 + blue of every pixel, (H, W) int32.

    Raises:
        InputError: if the file is no image, or compressed with loss.
    """
    try:
        with Image.open(path) as image:
            if image.format in _LOSSY:
                raise InputError(f"the mask {path} is compressed with loss ({image.format}); export it anew as PNG")
            rgb = np.asarray(image.convert("RGB")).astype(np.int32)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"cannot read the mask {path}: {error}") from error
    return rgb @ np.array([65536, 256, 1], np.int32)


def read_colors(
    classes: Mapping[str, int], unlabeled: int, path: Path, colors: Mapping[str, Color], void: Sequence[Color]
) -> np.ndarray:
    """Return the labels (H, W) uint8 of a mask in colors.

    Args:
        colors: class -> color.
        void: colors of pixels without a label.

    Raises:
        InputError: if it cannot be read, or holds another color.
    """
    pixels = _codes(path)
    codes, places = np.unique(pixels, return_inverse=True)
    known = {(r << 16) + (g << 8) + b: unlabeled for r, g, b in void}
    known |= {(r << 16) + (g << 8) + b: classes[name] for name, (r, g, b) in colors.items()}
    strange = [int(code) for code in codes if int(code) not in known]
    if strange:
        raise InputError(f"the mask {path} holds the color #{strange[0]:06x}, which is no class's")
    return np.array([known[int(code)] for code in codes], np.uint8)[places].reshape(pixels.shape)


def read_voc(source: Path, images: Path | None, _: Path | None) -> Annotations:
    """Read a folder with SegmentationClass, JPEGImages and ImageSets/Segmentation.

    Classes and colors are those of labelmap.txt (`name:red,green,blue::`) where it is there, else VOC's 21.

    Raises:
        InputError: if a part of it is missing.
    """
    masks, lists = source / "SegmentationClass", source / "ImageSets" / "Segmentation"
    names = {Path(name).with_suffix("").as_posix(): name for name in find_files(masks, [".png"])}
    if not names:
        raise InputError(f"expected Pascal VOC's {masks} with *.png, found none")
    find = ImageFinder(images or source / "JPEGImages")
    table = source / "labelmap.txt"
    colors = _label_map(table) if table.is_file() else dict(zip(_VOC, voc_colors(len(_VOC)), strict=True))
    void = [] if _VOID in colors.values() else [_VOID]
    part_of = {
        stem.strip(): file.stem
        for file in sorted(lists.glob("*.txt"))
        if file.stem in ("train", "val", "test")
        for stem in file.read_text("utf-8").splitlines()
        if stem.strip()
    }
    pictures = [
        Picture(
            output_name(name),
            find(*(f"{stem}{suffix}" for suffix in (".jpg", ".jpeg", ".png"))),
            None,
            raster=Raster(read_colors, (masks / name, colors, void)),
            split=part_of.get(stem, ""),
        )
        for stem, name in names.items()
        if not part_of or stem in part_of
    ]
    return Annotations(list(colors), pictures, list(colors.values()))


def _label_map(path: Path) -> dict[str, Color]:
    colors: dict[str, Color] = {}
    for line in path.read_text("utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            name, values, *_ = line.split(":")
            try:
                red, green, blue = (int(value) for value in values.split(","))
            except ValueError as error:
                raise InputError(f"{path}: expected name:red,green,blue::, got {line!r}") from error
            colors[name] = (red, green, blue)
    return colors


def voc_colors(count: int) -> list[Color]:
    """Return VOC's colors: the bits of the number, three at a time, become the highest bits of red, green and blue."""
    return [
        tuple(sum((number >> 3 * bit + channel & 1) << 7 - bit for bit in range(3)) for channel in range(3))
        for number in range(count)
    ]  # pyright: ignore[reportReturnType]
