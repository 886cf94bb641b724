"""`segcore data import`: annotations of the common tools become a folder of images and masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from segcore.commands import data_check
from segcore.commands.parsing import parse_options
from segcore.errors import check
from segcore.recipe.ranges import NOT_NEGATIVE, check_ranges

if TYPE_CHECKING:
    from segcore.data.annotations.pictures import Annotations

Format = Literal["coco", "yolo", "labelme", "cvat", "labelstudio", "voc", "colors"]
_READERS: dict[Format, tuple[str, str]] = {
    "coco": ("coco", "read"),
    "yolo": ("yolo", "read"),
    "labelme": ("labelme", "read"),
    "cvat": ("cvat", "read"),
    "labelstudio": ("label_studio", "read"),
    "voc": ("colors", "read_voc"),
    "colors": ("colors", "read"),
}
"""Format -> file of segcore.data.annotations and its function."""

_SHARED = ("out", "classes", "split", "overlap", "background", "processes")
_DESCRIPTION = """Turn annotations into a folder that the recipe `own` trains on: OUT/images, OUT/masks (PNG, one number
per class) and OUT/classes.json. FORMAT and SOURCE: coco FILE.json (instances, stuff, panoptic); yolo data.yaml
(segmentation); labelme FOLDER of JSON; cvat annotations.xml (images 1.1); labelstudio FILE.json; voc FOLDER; colors
FOLDER of masks with a color per class. Runs on all cores; stopped, it goes on where it was; files that exist stay as
they are. `segcore data check` runs in the end."""


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What to import."""

    format: Annotated[tyro.conf.Positional[Format], tyro.conf.arg(metavar="FORMAT")]
    """Of the annotations."""
    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")]
    """File or folder of the annotations."""
    out: Path
    """Folder to write; images are hard links where the disk allows, else copies."""
    images: Path | None = None
    """Folder of the images, where they do not lie beside the annotations."""
    masks: Path | None = None
    """coco panoptic: folder of its PNG files; empty is the one beside the JSON with its name."""
    colors: Path | None = None
    """colors: table of the classes, JSON {"classes", "palette"} or lines of name, red, green, blue; empty numbers the
    colors that are found."""
    classes: Path | None = None
    """File of the class names in the order of their numbers; empty takes OUT's, or else those of the format."""
    split: Literal["", "train", "val", "test"] = ""
    """Part that all images belong to; empty takes the format's own parts, if it has any."""
    overlap: Literal["smaller", "file"] = "smaller"
    """What lies above where shapes overlap: the smaller one, or the later one of the file (CVAT: of its z_order)."""
    background: str = ""
    """Class of pixels in no shape, made as class 0 where it is none; empty leaves them unlabeled (255)."""
    processes: Annotated[int, NOT_NEGATIVE] = 0
    """Worker processes; 0 takes all cores."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check(self.colors is None or self.format == "colors", "--colors is for the format colors only")
        check(self.masks is None or self.format == "coco", "--masks is for the format coco only")


def main(words: list[str]) -> int:
    """Run the command; returns the exit code of the check in the end.

    Raises:
        InputError: if the annotations cannot be read, name what is not there, or OUT holds something else.
    """
    options = parse_options("segcore data import", _DESCRIPTION, ImportOptions, words)
    module, function = _READERS[options.format]
    from segcore.data.annotations.writing import Settings, class_table, write_folder
    from segcore.data.folder import ALL, SPLITS

    read: Callable[..., Annotations] = getattr(import_module(f"segcore.data.annotations.{module}"), function)
    more = {"table": options.colors} if options.format == "colors" else {}
    found = read(options.source, options.images, options.masks, **more)
    check(bool(found.pictures), f"{options.source} names no image")
    settings = Settings(**{name: getattr(options, name) for name in _SHARED})
    table = class_table(settings, found)
    counts = write_folder(settings, found, table)
    print(f"wrote {counts.written} masks of {len(table.names)} classes to {options.out}, kept {counts.kept}")
    for kind, number in found.skipped.items():
        print(f"left out {number} x {kind}: no area")
    print(f"to train on it: <paper>-train own --run.data {options.out}")
    splits = [name for name in SPLITS if (options.out / "images" / name).is_dir()]
    asked = [word for name in splits or [ALL] for word in ("--split", name)]
    return data_check.main(["folder", "--root", str(options.out), *asked])
