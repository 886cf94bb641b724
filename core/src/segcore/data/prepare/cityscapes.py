"""Cityscapes: polygons -> label ids -> train ids, as the data set's own tools write them (docs/protocol 1.3)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from segcore.data.labels import IGNORE, cityscapes_train_ids, load_metadata
from segcore.data.prepare.runner import Counts, Job, run_jobs
from segcore.data.read import read_label
from segcore.errors import InputError

_KINDS = ("gtFine", "gtCoarse")
_LICENSE_PLATE = -1
_GROUP = "group"


def prepare(root: Path, *, source: Path | None, processes: int, force: bool) -> list[Counts]:
    """Write `*_labelTrainIds.png` for every annotated image of train, val and train_extra, fine and coarse.

    Where only `*_polygons.json` are there, `*_labelIds.png` are drawn first.

    Args:
        root: folder that holds gtFine or gtCoarse.
        source: not used here.

    Raises:
        InputError: if there is no annotation, or a file that cannot be used.
    """
    if source is not None:
        raise InputError("--source is for Pascal Context only; Cityscapes annotations are found in --root")
    folders = [root / kind / split for kind in _KINDS for split in ("train", "val", "train_extra")]
    drawn: list[Job] = []
    mapped: list[Job] = []
    for folder in filter(Path.is_dir, folders):
        kind = folder.parent.name
        label_ids = set(folder.glob(f"*/*_{kind}_labelIds.png"))
        for polygons in sorted(folder.glob(f"*/*_{kind}_polygons.json")):
            label_id = polygons.with_name(polygons.name.replace("_polygons.json", "_labelIds.png"))
            # Label ids of the release are never drawn again; ours are, with --force, if they are gone.
            if label_id not in label_ids:
                drawn.append(Job(label_id, draw_label_ids, (polygons,)))
                label_ids.add(label_id)
        for path in sorted(label_ids):
            train_id = path.with_name(path.name.replace("_labelIds.png", "_labelTrainIds.png"))
            mapped.append(Job(train_id, map_label_ids, (path,)))
    if not mapped:
        expected = "gtFine/train/CITY/*_gtFine_labelIds.png or *_gtFine_polygons.json (or the same in gtCoarse)"
        raise InputError(f"Cityscapes: expected {expected} in {root}, found none; --root must hold gtFine or gtCoarse")
    results = [run_jobs(drawn, "polygons -> labelIds", processes=processes, force=force)] if drawn else []
    return [*results, run_jobs(mapped, "labelIds -> labelTrainIds", processes=processes, force=force)]


def map_label_ids(path: Path) -> np.ndarray:
    """Return the train ids (H, W) uint8 of a `*_labelIds.png`.

    Raises:
        InputError: if the file is unusable or holds an id that Cityscapes does not have.
    """
    raw = read_label(path)
    num_ids = len(load_metadata("cityscapes")["raw_names"])
    unknown = np.unique(raw[(raw >= num_ids) & (raw != IGNORE)])  # 255 is -1, license plate
    if len(unknown):
        values = ", ".join(map(str, unknown[:5]))
        raise InputError(f"{path} holds the unknown label id {values}; expected 0 to {num_ids - 1} or 255")
    return cityscapes_train_ids(raw)


@cache
def _ids() -> dict[str, int]:
    names = load_metadata("cityscapes")["raw_names"]
    return {**{name: number for number, name in enumerate(names)}, "license plate": _LICENSE_PLATE}


def draw_label_ids(path: Path) -> np.ndarray:
    """Draw the polygons of a `*_polygons.json` in the order of the file, later ones over earlier ones.

    Deleted objects and those with a negative id (license plates) are left out; NAMEgroup counts as NAME; what nothing
    covers is 0 (unlabeled).

    Shapes:
        -> (H, W) uint8 label ids

    Raises:
        InputError: if the file is not such an annotation, or names an unknown label.
    """
    try:
        content: Any = json.loads(path.read_text("utf-8"))
        picture = Image.new("L", (int(content["imgWidth"]), int(content["imgHeight"])), _ids()["unlabeled"])
        drawer = ImageDraw.Draw(picture)
        for entry in content["objects"]:
            label_id = _find_id(entry["label"], path)
            if label_id >= 0 and not entry.get("deleted", False):
                drawer.polygon([(x, y) for x, y in entry["polygon"]], fill=label_id)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        expected = "expected imgWidth, imgHeight and objects with a label and a polygon"
        raise InputError(f"{path} is no Cityscapes annotation ({error!r}); {expected}") from error
    return np.array(picture)


def _find_id(name: str, path: Path) -> int:
    known = _ids()
    if name not in known and name.endswith(_GROUP):
        name = name.removesuffix(_GROUP)
    if name not in known:
        raise InputError(f"{path} names the unknown label {name!r}; expected one of the 35 labels of Cityscapes")
    return known[name]
