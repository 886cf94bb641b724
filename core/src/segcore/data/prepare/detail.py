"""Masks of PASCAL in Detail (`trainval_merged.json`) -> Pascal Context labels."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from segcore.data.labels import load_metadata, pascal_context_60
from segcore.data.prepare.runner import Job
from segcore.errors import InputError

_SPLITS = ("train", "val")


def read_detail(path: Path, folder: Path) -> tuple[list[Job], dict[str, list[str]]]:
    """Return the label files to write into a folder, and the sorted stems of train and val.

    Every image and every annotation of the file counts.

    Raises:
        InputError: if the file is no such annotation, has an unknown category, or pycocotools is not installed.
    """
    if find_spec("pycocotools") is None:
        raise InputError(f"reading {path.name} needs pycocotools; `pip install 'segcore[prepare]'` installs it")
    try:
        content: Any = json.loads(path.read_text("utf-8"))
        images = [image for image in content["images"] if image["phase"] in _SPLITS]
        regions: dict[int, list[tuple[int, Any]]] = {image["image_id"]: [] for image in images}
        for region in content["annos_segmentation"]:
            _check_category(region, path)
            if region["image_id"] in regions:
                regions[region["image_id"]].append((region["category_id"], region["segmentation"]))
        jobs: list[Job] = []
        stems: dict[str, list[str]] = {split: [] for split in _SPLITS}
        for image in images:
            stem, size = Path(image["file_name"]).stem, (int(image["height"]), int(image["width"]))
            place = f"{path}, image {stem}"
            jobs.append(Job(folder / f"{stem}.png", relabel_regions, (size, regions[image["image_id"]], place)))
            stems[image["phase"]].append(stem)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        expected = "expected the lists images and annos_segmentation"
        raise InputError(f"{path} is no annotation of PASCAL in Detail ({error!r}); {expected}") from error
    return jobs, {split: sorted(names) for split, names in stems.items()}


def _check_category(region: Any, path: Path) -> None:
    if str(region["category_id"]) not in load_metadata("pascal_context_60")["category_id_to_label"]:
        place = f"{path}, image {region['image_id']}"
        raise InputError(f"{place}: the unknown label id {region['category_id']}; expected a category of the 59 or 0")


def relabel_regions(size: tuple[int, int], regions: list[tuple[int, Any]], place: str) -> np.ndarray:
    """Draw the regions of one image in their order, later ones over earlier ones.

    Args:
        size: height and width of the image.
        regions: (category id, COCO segmentation: run lengths or polygons).
        place: file and image, for messages.

    Shapes:
        -> (H, W) uint8, labels 0..59

    Raises:
        InputError: if a mask is broken or of another size.
    """
    from pycocotools import mask as coco  # only a worker that decodes needs it

    categories = np.zeros(size, np.int64)
    for category, segmentation in regions:
        try:
            runs = segmentation
            if isinstance(segmentation, list) or isinstance(segmentation["counts"], list):
                runs = coco.frPyObjects(segmentation, *size)
            region = coco.decode(coco.merge(runs) if isinstance(runs, list) else runs)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{place}: a mask of category {category} is broken ({error!r})") from error
        if region.shape != size:
            raise InputError(f"{place}: a mask of category {category} has the size {region.shape}, expected {size}")
        categories[region > 0] = category
    return pascal_context_60(categories)
