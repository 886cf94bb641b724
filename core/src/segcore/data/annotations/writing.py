"""The folder that a reader's annotations become: classes.json, images, masks."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segcore.data.annotations.drawing import Order, Shape, Size, draw_label
from segcore.data.annotations.pictures import Annotations, Picture
from segcore.data.base import ClassTable
from segcore.data.folder import has_class_file, read_classes
from segcore.data.labels import IGNORE
from segcore.data.palette import make_palette
from segcore.data.prepare.runner import Counts, Job, run_jobs
from segcore.data.read import image_size
from segcore.errors import InputError, check
from segcore.files import atomic_write

_CLASSES = "classes.json"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How annotations are drawn.

    Attributes:
        out: folder to write.
        classes: file of the class names; None takes that of `out`, or else the annotations'.
        split: part that all images belong to; empty takes the annotations' own.
        overlap: see `Order`.
        background: class of pixels in no shape; empty leaves them unlabeled.
        processes: workers; 0 takes all cores.
    """

    out: Path
    classes: Path | None = None
    split: str = ""
    overlap: Order = "smaller"
    background: str = ""
    processes: int = 0


def class_table(settings: Settings, found: Annotations) -> ClassTable:
    """Return the classes of the label maps.

    Raises:
        InputError: if they do not name a class that the annotations use, or there are too many.
    """
    own = settings.out / _CLASSES
    file = settings.classes or (own if own.is_file() else None)
    if file is not None:
        table = read_classes(file)
        absent = [name for name in found.classes if name not in table.names and _may_occur(found, name)]
        check(not absent, f"{file} lacks the class {', '.join(absent)} of the annotations; add it there")
    else:
        is_named = has_class_file(settings.out)
        check(not is_named, f"{settings.out} has a classes.txt already; name it with --classes, or move it away")
        table = _own_table(settings.background, found)
    is_known = not settings.background or settings.background in table.names
    check(is_known, f"{file} lacks the class {settings.background} of --background; add it there")
    return table


def _own_table(background: str, found: Annotations) -> ClassTable:
    names, colors = list(found.classes), found.colors
    if background and background not in names:
        names.insert(0, background)
        colors = [(0, 0, 0), *colors] if colors else None
    twice = sorted({name for name in names if names.count(name) > 1})
    check(not twice, f"the annotations have two classes of the name {', '.join(twice)}; rename one of them")
    check(0 < len(names) <= 254, f"expected 1 to 254 classes, the annotations have {len(names)}")
    return ClassTable(tuple(names), np.array(colors, np.uint8) if colors else make_palette(len(names)))


def _may_occur(found: Annotations, name: str) -> bool:
    """Tell whether a class is drawn, as far as that shows before masks are read."""
    return any(picture.raster or any(shape.name == name for shape in picture.shapes) for picture in found.pictures)


def write_folder(settings: Settings, found: Annotations, table: ClassTable) -> Counts:
    """Write what is missing; files that exist stay as they are.

    Raises:
        InputError: if two pictures would be one file, `out` holds other classes or another image, or a source cannot
            be used.
    """
    numbers = {name: number for number, name in enumerate(table.names)}
    unlabeled = numbers[settings.background] if settings.background else IGNORE
    jobs: list[Job] = []
    links: dict[Path, Path] = {}
    for picture in found.pictures:
        split = settings.split or picture.split
        target = settings.out / "masks" / split / f"{picture.name}.png"
        if target in links:
            raise InputError(f"{picture.image} and {links[target]} would both be {target}; rename one of them")
        links[target] = picture.image
        jobs.append(_job(target, picture, numbers, settings.overlap, unlabeled))
    _write_classes(settings.out / _CLASSES, table)
    for picture in found.pictures:
        name = f"{picture.name}{picture.image.suffix}"
        place_image(picture.image, settings.out / "images" / (settings.split or picture.split) / name)
    return run_jobs(jobs, "masks", processes=settings.processes)


def _job(target: Path, picture: Picture, numbers: dict[str, int], order: Order, unlabeled: int) -> Job:
    if picture.raster:
        return Job(target, picture.raster.read, (numbers, unlabeled, *picture.raster.arguments))
    shapes = [(numbers[shape.name], shape) for shape in picture.shapes]
    return Job(target, draw_picture, (picture.image, picture.size, shapes, order, unlabeled))


def draw_picture(
    image: Path, size: Size | None, shapes: Sequence[tuple[int, Shape]], order: Order, unlabeled: int
) -> np.ndarray:
    """Return the label map of a picture, see `draw_label`; without a stated size, of its image's."""
    return draw_label(size or image_size(image), shapes, order, unlabeled)


def _write_classes(path: Path, table: ClassTable) -> None:
    content = {"classes": list(table.names), "palette": table.palette.tolist()}
    if path.is_file():
        theirs = read_classes(path)
        check(theirs.names == table.names, f"{path} has other classes; choose another --out, or move it away")
        return
    with atomic_write(path) as file:
        file.write(f"{json.dumps(content, ensure_ascii=False, indent=1)}\n".encode())


def place_image(source: Path, target: Path) -> None:
    """Let an image also be `target`: by a hard link, or a copy where the disk has none.

    Raises:
        InputError: if another file is there, or it cannot be made.
    """
    try:
        if target.exists():
            is_same = os.path.samefile(source, target) or source.stat().st_size == target.stat().st_size
            check(is_same, f"{target} exists and is another file than {source}; choose another --out")
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source.resolve(), target)
        except OSError:
            partial = target.with_name(f".{target.name}.partial")
            shutil.copyfile(source, partial)
            partial.replace(target)
    except OSError as error:
        raise InputError(f"cannot make {target}: {error.strerror or error}") from error
